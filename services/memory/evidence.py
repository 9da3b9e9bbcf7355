"""What shows that an erased fact is gone: what to search for, where, and whose else it is."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import NamedTuple

from larimar.errors import DataLoss, LarimarError
from larimar.memory import Kind
from services.log import Log
from services.memory.scan import needles_of, search_files, without_shared

HELD_PAGE = 200
"""Entries whose payloads are looked at together."""


class Searched(NamedTuple):
    """A search of the store's keys and, where they are on this machine, of its files."""

    keys: int
    files: int
    bytes: int
    found: int
    """Keys, and files for each needle, in which something was found."""


class Evidence:
    """Searches a store, through the log port."""

    def __init__(self, log: Log) -> None:
        self._log = log

    async def needles(self, tenant: str, bank: str, fact_ids: Sequence[str]) -> list[bytes]:
        """What to search for: all that the facts ever held in the family, as far as it is there."""
        payloads: dict[bytes, None] = {}
        for member in await self._log.family(tenant, bank):
            for fact_id in fact_ids:
                for event in await self._log.fact_events(tenant, member, fact_id):
                    if event.kind != Kind.WRITE:
                        continue
                    with contextlib.suppress(LarimarError):  # erased before, or damaged
                        found = await self._log.payloads(tenant, member, [event.version])
                        payloads[found[0]] = None
        return needles_of(payloads)

    async def search(self, tenant: str, bank: str, needles: Sequence[bytes]) -> Searched:
        """Where in the family's keys, the tenant's queues and the store's files they are."""
        if not needles:
            return Searched(0, 0, 0, 0)
        paths = await self._log.files()
        files, size, in_files = await asyncio.to_thread(search_files, paths or [], needles)
        keys = await self._log.search(tenant, bank, needles)
        return Searched(keys.keys, files, size, in_files + keys.found)

    async def not_shared(self, needles: Sequence[bytes]) -> list[bytes]:
        """The needles that no fact of the store holds in its own right, in any version.

        The store's files are everybody's. A bank that cannot be read vouches for nothing.
        """
        left = list(needles)
        for tenant in await self._log.tenants():
            for bank in await self._log.banks(tenant):
                with contextlib.suppress(DataLoss):
                    left = await self._not_in_bank(tenant, bank, left)
        return left

    async def _not_in_bank(self, tenant: str, bank: str, needles: list[bytes]) -> list[bytes]:
        after = 0
        while page := (await self._log.tail(tenant, bank, after, HELD_PAGE)).entries:
            held = [payload for _, payload in page if payload is not None]
            needles = await asyncio.to_thread(without_shared, needles, held)
            after = page[-1][0].version
        return needles
