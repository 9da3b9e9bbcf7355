"""Whether a bank has room for more rows, told before an edit is acknowledged."""

from __future__ import annotations

from collections.abc import Sequence

from larimar import state
from larimar.errors import ResourceExhausted
from larimar.payload import MAX_REPHRASINGS
from services.follower import Follower
from services.log import Appended

MARGIN_ROWS = 1 << 17
"""Rows short of what a bank can be folded with: appends of other replicas that are on their way at
the same moment, dozens of full batches, must not go past it together."""


class Capacity:
    """Knows of each bank how many rows it has at most, and asks a follower where that is too many.

    The log's events bound the rows: nothing is folded for an append to a bank with few of them.
    """

    def __init__(self, follower: Follower) -> None:
        self._follower = follower
        self._counted: dict[tuple[str, str], tuple[int, int]] = {}
        self._newest: dict[tuple[str, str], int] = {}

    async def refusal(self, tenant: str, bank: str, rows: int) -> ResourceExhausted | None:
        """Why a bank takes no more writes; None when it has room for these rows.

        Raises: as Follower.state, where the rows must be counted.
        """
        most = state.MAX_ROWS - MARGIN_ROWS
        key = (tenant, bank)
        version, counted = self._counted.get(key, (0, 0))
        since = max(self._newest.get(key, 0) - version, 0)
        if not rows or counted + since * (1 + MAX_REPHRASINGS) + rows <= most:
            return None
        async with self._follower.state(tenant, bank) as folded:
            counted = folded.row_count
            self._counted[key] = (folded.version, counted)
            self._newest[key] = folded.version
        if counted + rows <= most:
            return None
        return ResourceExhausted(
            f"bank {bank!r} holds {counted} of at most {most} rows: forget facts first, or write "
            "to another bank",
            "BANK_FULL",
        )

    def note(self, tenant: str, bank: str, appended: Sequence[Appended]) -> None:
        """Takes note of how far a bank's log has come."""
        versions = [one.version for one in appended if one.version and not one.duplicate]
        if versions:
            key = (tenant, bank)
            if versions[-1] < self._counted.get(key, (0, 0))[0]:  # the bank was made anew
                del self._counted[key]
            self._newest[key] = versions[-1]
