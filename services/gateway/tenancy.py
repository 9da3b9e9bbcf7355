"""Whose call it is: the tenant of the API key that came with it."""

from __future__ import annotations

from contextvars import ContextVar

_TENANT: ContextVar[str | None] = ContextVar("larimar_tenant", default=None)


def set_tenant(tenant: str) -> None:
    """Binds the call (or task) that runs, and all that it starts, to a tenant."""
    _TENANT.set(tenant)


def current_tenant(default: str) -> str:
    """The tenant of the call that runs; `default` where nobody has asked for keys."""
    return _TENANT.get() or default
