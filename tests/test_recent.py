"""An answer that all who ask within a moment share."""

from __future__ import annotations

import asyncio

import pytest

from larimar.errors import Unavailable
from services.gateway.http.recent import KEPT_S, Recent


class Clock:
    """A clock that stands until it is set."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class Looks:
    """Looks that answer with their number, or fail."""

    def __init__(self) -> None:
        self.made = 0
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.fails = False

    async def __call__(self) -> int:
        self.made += 1
        number = self.made
        await self.may_end.wait()
        if self.fails:
            raise Unavailable("nobody is there", "NOT_READY")
        return number


def test_an_answer_holds_for_a_while_and_is_then_looked_for_anew() -> None:
    async def run() -> None:
        clock, looks = Clock(), Looks()
        recent = Recent(clock)
        assert [await recent.of(looks) for _ in range(5)] == [1] * 5
        clock.now += KEPT_S * 0.9
        assert await recent.of(looks) == 1
        clock.now += KEPT_S * 0.2
        assert await recent.of(looks) == 2

    asyncio.run(run())


def test_who_asks_while_it_is_looked_for_waits_for_that_look() -> None:
    async def run() -> None:
        looks = Looks()
        recent = Recent(Clock())
        looks.may_end.clear()
        asking = [asyncio.ensure_future(recent.of(looks)) for _ in range(8)]
        await asyncio.sleep(0)
        asking[0].cancel()  # a caller that goes away takes nothing from the others
        looks.may_end.set()
        found = await asyncio.gather(*asking, return_exceptions=True)
        assert found[1:] == [1] * 7 and isinstance(found[0], asyncio.CancelledError)
        assert looks.made == 1

    asyncio.run(run())


def test_a_failure_is_an_answer_too_and_passes() -> None:
    async def run() -> None:
        clock, looks = Clock(), Looks()
        recent = Recent(clock)
        looks.fails = True
        for _ in range(3):
            with pytest.raises(Unavailable, match="nobody"):
                await recent.of(looks)
        assert looks.made == 1
        clock.now += KEPT_S
        looks.fails = False
        assert await recent.of(looks) == 2

    asyncio.run(run())
