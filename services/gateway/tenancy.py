"""Whose call it is: the API key that came with it, and its tenant."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar

_TENANT: ContextVar[str | None] = ContextVar("larimar_tenant", default=None)
_KEY: ContextVar[str] = ContextVar("larimar_key", default="")
_LOOK: ContextVar[Callable[[], Awaitable[None]] | None] = ContextVar("larimar_look", default=None)


def set_tenant(
    tenant: str, key_id: str = "", look: Callable[[], Awaitable[None]] | None = None
) -> None:
    """Binds the call (or task) that runs, and all that it starts, to a tenant.

    Args:
        key_id: of the API key that the call came with, or another word for who makes it.
        look: raises when the key counts no more; None where there is none to look at.
    """
    _TENANT.set(tenant)
    _KEY.set(key_id)
    _LOOK.set(look)


async def check_key_again() -> None:
    """Looks whether the key of the call that runs still counts: before each part of a long call.

    Raises:
        Unauthenticated: BAD_KEY, it was revoked.
        Unavailable: as of a new call, the store does not answer.
    """
    look = _LOOK.get()
    if look is not None:
        await look()


def current_key() -> str:
    """Who makes the call that runs: the id of its API key; empty where nobody asks for keys."""
    return _KEY.get()


def current_tenant(default: str) -> str:
    """The tenant of the call that runs; `default` where nobody has asked for keys."""
    return _TENANT.get() or default
