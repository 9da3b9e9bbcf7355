"""The metrics of a follower of the log."""

from __future__ import annotations

from collections.abc import Sequence

from larimar.memory import BankState
from services.log_rules import MAX_EVENTS
from services.observability import metrics

OUTCOMES = ("saved", "failed", "skipped", "outdated")
"""What may become of a checkpoint."""


class FollowerMetrics:
    """What a follower of a part of the state counts; begins at 0 for all that may happen.

    Args:
        part: "memory" or "scope", which is the service too.
    """

    def __init__(self, part: str) -> None:
        self._part = part
        self.lag = metrics.FOLLOWER_LAG.labels(part)
        self.other_histories = metrics.OTHER_HISTORIES.labels(part)
        self.checkpoints = {one: metrics.CHECKPOINTS.labels(part, one) for one in OUTCOMES}

    def holds(
        self, states: Sequence[BankState], stopped: int, bytes_held: int, budget_bytes: int
    ) -> None:
        """Says what the follower holds now.

        Args:
            states: of the banks at their newest version.
            stopped: how many banks are stopped.
            bytes_held: of all states, those of past versions too.
        """
        metrics.BANKS_HELD.labels(self._part).set(len(states))
        metrics.BANKS_STOPPED.labels(self._part).set(stopped)
        metrics.STATE_BYTES.labels(self._part).set(bytes_held)
        metrics.STATE_BUDGET_BYTES.labels(self._part).set(budget_bytes)
        longest = max((state.version for state in states), default=0)
        metrics.BANK_FILL.labels("events").set(longest / MAX_EVENTS)
        if self._part == "memory":
            metrics.BANK_FILL.labels("slots").set(max((one.fill for one in states), default=0.0))
