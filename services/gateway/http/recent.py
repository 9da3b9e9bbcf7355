"""An answer that all who ask within a moment share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")
KEPT_S = 1.0
"""How long an answer to a probe is taken to hold: nobody needs a key for one, so that however many
ask, the services behind the port are asked once in this time."""


class Recent(Generic[T]):
    """Answers with what was found last, and looks again when that is older than KEPT_S.

    A failure is an answer as any other. Bound to one event loop.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._look: asyncio.Future[T] | None = None
        self._until = 0.0

    async def of(self, look: Callable[[], Awaitable[T]]) -> T:
        """The answer of this look, or of one that was begun for another caller.

        Raises:
            As the look.
        """
        if self._look is None or (self._look.done() and self._now() >= self._until):
            self._look = asyncio.ensure_future(look())
            self._look.add_done_callback(self._found)
        return await asyncio.shield(self._look)

    def _found(self, look: asyncio.Future[T]) -> None:
        self._until = self._now() + KEPT_S
        if not look.cancelled():
            look.exception()  # asked for: nobody may be waiting any more
