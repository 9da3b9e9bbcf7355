"""Whose call it is: the API key that came with it, and its tenant."""

from __future__ import annotations

from contextvars import ContextVar

_TENANT: ContextVar[str | None] = ContextVar("larimar_tenant", default=None)
_KEY: ContextVar[str] = ContextVar("larimar_key", default="")


def set_tenant(tenant: str, key_id: str = "") -> None:
    """Binds the call (or task) that runs, and all that it starts, to a tenant.

    Args:
        key_id: of the API key that the call came with, or another word for who makes it.
    """
    _TENANT.set(tenant)
    _KEY.set(key_id)


def current_key() -> str:
    """Who makes the call that runs: the id of its API key; empty where nobody asks for keys."""
    return _KEY.get()


def current_tenant(default: str) -> str:
    """The tenant of the call that runs; `default` where nobody has asked for keys."""
    return _TENANT.get() or default
