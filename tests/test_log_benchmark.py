"""The benchmark of appends: both sides do their work, and a side that does not is not reported."""

from __future__ import annotations

import pytest

from benchmarks import append
from larimar.errors import LarimarError
from services.log import Appended
from services.redis_log import RedisLog


def test_both_sides_are_measured_and_judged() -> None:
    told: list[str] = []
    results = append.run(True, False, told.append).results()
    assert results["setting"]["publishers"] == 8
    for side in ("log", "XADD"):
        assert results["measured"][side]["count"] == append.QUICK_ROUNDS
        assert results["measured"][side]["min"] > 0
    ratio = results["compared"]["log against XADD"]
    assert (ratio["aim"], ratio["value"] > 0) == ("at least 0.5", True)
    assert len(told) == append.QUICK_ROUNDS


def test_events_that_are_not_in_the_store_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    async def forgetful(*_) -> list[Appended]:
        return [Appended(1)]

    monkeypatch.setattr(RedisLog, "append", forgetful)
    with pytest.raises(LarimarError, match="does not hold"):
        append.run(True, False, lambda _: None)
