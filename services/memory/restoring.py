"""What comes back: facts that a backup, an archive or an import that was cut off still holds.

The erase ledger says what was erased from which log. A bank that is restored or imported is
compared with it before anybody reads it, and what it should not have is erased from it again.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Protocol, TypeVar

from larimar.errors import LarimarError, NotFound, Unavailable
from larimar.v1 import common_pb2
from services.log import Log
from services.memory.ledger import EraseLedger, hashed, reencoded
from services.observability.logs import get_logger

log = get_logger("larimar.erasure")

T = TypeVar("T")

MAX_FACTS = 256
"""Facts of one erasure: its receipt names the digest of each."""
ABANDONED_LOAD_S = 86_400.0
"""After which an import or a re-encoding that was cut off is swept away; until then it goes on
where it stopped."""
SWEEP_S = 3_600.0
"""Between two looks for such ones."""


class Erase(Protocol):
    """Erases facts from a bank and all its forks."""

    async def __call__(
        self, tenant: str, bank: str, fact_ids: Sequence[str], event_id: str
    ) -> common_pb2.EraseReceipt: ...


class Restoring:
    """Compares banks with the ledger, and erases again what came back.

    Args:
        erase: as `Eraser.erase`.
    """

    def __init__(self, log_port: Log, ledger: EraseLedger, erase: Erase) -> None:
        self._log = log_port
        self._ledger = ledger
        self._erase_facts = erase
        self._looking: asyncio.Task | None = None
        self._shows: set[asyncio.Task] = set()
        self._withheld: dict[tuple[str, str], asyncio.Task] = {}
        self._sweep_at = 0.0
        self.unrestored: dict[tuple[str, str], LarimarError] = {}
        """Tenant and bank of what cannot be read to look for erased facts, with the reason."""

    async def close(self) -> None:
        """Ends what runs; the next start looks again."""
        running = [task for task in (self._looking, *self._shows) if task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def erase_again(self, tenant: str, bank: str) -> int:
        """Erases from a bank what its log's entries in the ledger name; how many facts it still
        had. For banks that were restored from a backup or an archive."""
        first = await self._log.events(tenant, bank, 0, 1)
        if not first:
            return 0
        due = [
            entry
            for entry in await asyncio.to_thread(self._ledger.entries)
            if (entry.tenant, entry.log) == (tenant, first[0].chain) and not entry.predecessor
        ]
        gone = {hashed(fact_id) for fact_id in await self._log.erased(tenant, bank)}
        missing = {entry.fact_id_sha256 for entry in due} - gone
        if not missing:
            return 0
        newest, _, _ = await self._log.head(tenant, bank)
        if newest < max(entry.version for entry in due):
            log.warning(
                "bank %s is at version %d, and was at %d before: what came after is gone",
                bank,
                newest,
                max(entry.version for entry in due),
                tenant=tenant,
                bank=bank,
                version=newest,
            )
        ids: set[str] = set()
        after = 0
        while after < newest:
            page = await self._log.events(tenant, bank, after, 1000)
            ids.update(event.fact_id for event in page if hashed(event.fact_id) in missing)
            after = page[-1].version
        for start in range(0, len(ids), MAX_FACTS):
            part = sorted(ids)[start : start + MAX_FACTS]
            await self._erase_facts(tenant, bank, part, f"ledger:{uuid.uuid4().hex}")
        return len(ids)

    async def shown(
        self, tenant: str, bank: str, erased: Iterable[str], show: Callable[[], Awaitable[T]]
    ) -> tuple[T, int]:
        """Makes a bank visible that comes back, and erases from it again what the ledger names:
        what `show` gave, and how many facts the bank still had.

        Reads of this process wait for both where something may be due. Both come to their end
        also when the caller goes away.

        Args:
            erased: fact ids that are erased in the bank that comes back.
        """
        gone = {hashed(fact_id) for fact_id in erased}
        entries = await asyncio.to_thread(self._ledger.entries)
        due = [one for one in entries if one.tenant == tenant and one.fact_id_sha256 not in gone]
        key = (tenant, bank)
        task = asyncio.create_task(self._shown(key, show, self._withheld.get(key)))
        self._shows.add(task)
        if any(not one.predecessor for one in due):
            self._withheld[key] = task

        def end(done: asyncio.Task) -> None:
            self._shows.discard(done)
            if self._withheld.get(key) is done:
                del self._withheld[key]
            if not done.cancelled():
                done.exception()  # which nobody may be there to see

        task.add_done_callback(end)
        return await asyncio.shield(task)

    async def _shown(
        self, key: tuple[str, str], show: Callable[[], Awaitable[T]], before: asyncio.Task | None
    ) -> tuple[T, int]:
        if before is not None:
            await asyncio.wait([before])
        try:
            return await show(), await self.erase_again(*key)
        except BaseException:
            # If the bank is there nevertheless, the next read looks at it first.
            self.unrestored[key] = Unavailable(f"bank {key[1]!r} is being looked at: read it again")
            raise

    async def note_reencoded(
        self, tenant: str, bank: str, source: str, records: Sequence[common_pb2.ArchiveRecord]
    ) -> None:
        """Notes in the ledger which log a new bank's log is made of, if it begins with these."""
        if not records or records[0].event.version != 1:
            return
        first = await self._log.events(tenant, source, 0, 1)
        if first:
            line = reencoded(tenant, bank, records[0].event.chain, first[0].chain)
            await asyncio.to_thread(self._ledger.add, [line])

    async def restored(self, tenant: str = "", *banks: str) -> None:
        """Returns when no bank has anything any more that the ledger names.

        A store that was brought back from a backup may have. It is looked at once a process. A bank
        of which that cannot be told holds up no other: it is looked at whenever it is asked for.

        Args:
            tenant: whose banks are asked for.
            banks: which; an empty name stands for none.

        Raises:
            Unavailable: the store is down; it is looked at with the next call.
            DataLoss: it cannot be told of one of these banks, whose log is damaged.
        """
        task = self._looking
        if task is None or (task.done() and (task.cancelled() or task.exception())):
            task = self._looking = asyncio.create_task(self._erase_restored())
        await asyncio.shield(task)
        for bank in banks:
            if (showing := self._withheld.get((tenant, bank))) is not None:
                await asyncio.wait([showing])
            if (tenant, bank) in self.unrestored:
                error = await self._restore(tenant, bank)
                if error is not None:
                    raise error

    async def sweep_if_due(self) -> None:
        """Sweeps what was abandoned, once in SWEEP_S."""
        if time.monotonic() >= self._sweep_at:
            await self.sweep_abandoned()
            self._sweep_at = time.monotonic() + SWEEP_S

    async def sweep_abandoned(self) -> None:
        """Sweeps what imports loaded that never came to an end, and what banks left whose removal
        did not; also out of the store's files where the ledger names something of such a log."""
        swept: set[tuple[str, str]] = set()
        for tenant in await self._log.tenants():
            chains = await self._log.sweep_loads(tenant, older_s=ABANDONED_LOAD_S)
            swept |= {(tenant, chain) for chain in chains}
        if swept:
            log.info("%d imports or removals that were cut off are swept away", len(swept))
            entries = await asyncio.to_thread(self._ledger.entries)
            if any((entry.tenant, entry.log) in swept for entry in entries):
                await self._log.rewrite_files()

    async def _erase_restored(self) -> None:
        tenants = {entry.tenant for entry in await asyncio.to_thread(self._ledger.entries)}
        for tenant in sorted(tenants):
            for bank in await self._log.banks(tenant):
                await self._restore(tenant, bank)

    async def _restore(self, tenant: str, bank: str) -> LarimarError | None:
        """Erases again what came back in a bank; why that cannot be done. Raises: Unavailable."""
        try:
            again = await self.erase_again(tenant, bank)
        except Unavailable:
            raise
        except NotFound:  # deleted at this moment
            again = 0
        except LarimarError as error:
            if (tenant, bank) not in self.unrestored:
                log.error(
                    "bank %s does not serve: whether erased facts are back cannot be told: %s",
                    bank, error, tenant=tenant, bank=bank, reason=error.reason,
                )  # fmt: skip
            self.unrestored[tenant, bank] = error
            return error
        self.unrestored.pop((tenant, bank), None)
        if again:
            log.warning(
                "%d erased facts were back in bank %s: erased again", again, bank,
                tenant=tenant, bank=bank,
            )  # fmt: skip
        return None
