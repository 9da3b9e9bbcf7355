"""Erasure: a fact, its history and its bytes, out of a bank and all its forks, with a receipt.

It goes in steps, each safe to repeat, and is kept as a record beside the family, so that any
memory replica can take it up where another left it: ERASE appended (nobody reads the fact any
more), checkpoints replaced, payloads and queued events deleted, the store's files rewritten, all
of it searched and replayed.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from larimar.errors import Conflict, InvalidArgument, LarimarError, NotFound, Unavailable
from larimar.memory import Kind, check_id, decide, request_body
from larimar.v1 import common_pb2
from services.follower import Follower
from services.log import Append, Log
from services.memory.evidence import Evidence
from services.memory.jobs import Job, record_name
from services.memory.ledger import EraseLedger, Erasure, hashed, lineage
from services.memory.restoring import MAX_FACTS, Restoring
from services.observability import metrics
from services.observability.logs import get_logger

log = get_logger("larimar.erasure")

PAUSE_S = 5.0
"""Between two looks for work that was left; also how often a worker says that it is at work."""
STEP = "ERASE_STEP_"
"""What the names of the steps begin with."""
LEFT_S = 20.0
"""After which silence a worker counts as gone, and another takes its work up."""


class Queues(Protocol):
    """What an erasure asks of the message queues."""

    async def remove_facts(self, tenant: str, bank: str, fact_ids: Sequence[str]) -> int:
        """Deletes the queued events that concern these facts; how many there were."""
        ...


class NoQueues:
    """Where there are no queues."""

    async def remove_facts(self, tenant: str, bank: str, fact_ids: Sequence[str]) -> int:
        """Nothing is queued."""
        return 0


class Eraser:
    """Runs erasures over the log port, a follower, the queues and the ledger.

    Args:
        on_step: awaited after each step, with the receipt; what it raises ends the work there.

    Attributes:
        restoring: erases again what comes back.
    """

    def __init__(
        self,
        log_port: Log,
        follower: Follower,
        queues: Queues,
        ledger: EraseLedger,
        on_step: Callable[[common_pb2.EraseReceipt], Awaitable[None]] | None = None,
    ) -> None:
        self._log = log_port
        self._follower = follower
        self._queues = queues
        self._ledger = ledger
        self._on_step = on_step
        self._worker = uuid.uuid4().hex
        self._running: dict[tuple[str, str], asyncio.Task] = {}
        self._starting = asyncio.Lock()
        self._keeper: asyncio.Task | None = None
        self._evidence = Evidence(log_port)
        self._needles: dict[tuple[str, str], list[bytes]] = {}
        self.restoring = Restoring(log_port, ledger, self.erase)

    async def erase(
        self, tenant: str, bank: str, fact_ids: Sequence[str], event_id: str
    ) -> common_pb2.EraseReceipt:
        """Appends ERASE for these facts and goes on with the rest in the background.

        Returns when no reader gets anything of them any more. The same event id again gives the
        receipt as it is, and takes the work up if it was left.

        Raises:
            NotFound: a fact was never written. Nothing was erased.
            FailedPrecondition: ERASED, a fact was erased before. Nothing was erased.
            Conflict: the event id was used for another request. Nothing was erased.
            InvalidArgument: no facts, or more than MAX_FACTS.
        """
        ids = sorted(set(fact_ids))
        if not 1 <= len(ids) <= MAX_FACTS:
            raise InvalidArgument(f"erase 1 to {MAX_FACTS} facts at once, not {len(ids)}")
        check_id("event_id", event_id)
        check_id("event_id", _event_ids(event_id, len(ids))[-1])
        async with self._starting:  # or the keeper would find the job before it runs
            return await self._erase(tenant, bank, ids, event_id)

    async def _erase(
        self, tenant: str, bank: str, ids: list[str], event_id: str
    ) -> common_pb2.EraseReceipt:
        job = await self._known(tenant, bank, event_id)
        if job is None:
            await self._check(tenant, bank, ids)
            receipt = common_pb2.EraseReceipt(
                event_id=event_id,
                bank=bank,
                fact_id_sha256=[hashed(fact_id) for fact_id in ids],
                started_ms=time.time_ns() // 10**6,
            )
            job = Job(tenant, ids, receipt)
            kept = await self._log.put_record(
                tenant, bank, job.name, job.text(self._worker), new=True
            )
            job, _, _ = Job.parse(tenant, kept)
        if list(job.receipt.fact_id_sha256) != [hashed(fact_id) for fact_id in ids]:
            raise Conflict(f"event id {event_id!r} erased other facts: take a new event id")
        if job.receipt.step == common_pb2.ERASE_STEP_DONE:
            return job.receipt
        await self._log.put_job(tenant, bank, job.name)
        if job.receipt.step < common_pb2.ERASE_STEP_APPENDED:
            await self._append(job)
        if (tenant, job.name) not in self._running:
            self._start(job)
        return job.receipt

    async def receipt(self, tenant: str, bank: str, event_id: str) -> common_pb2.EraseReceipt:
        """How far an erasure has come. Raises: NotFound."""
        job = await self._known(tenant, bank, event_id)
        if job is None:
            raise NotFound(
                f"bank {bank!r} has no erasure {event_id!r}: its event id is in the receipt",
                "UNKNOWN_ERASURE",
            )
        if job.receipt.step != common_pb2.ERASE_STEP_DONE:
            await self._log.put_job(tenant, bank, job.name)
        return job.receipt

    def keep(self) -> None:
        """Sees to it that left work is taken up, from now on; safe to call again."""
        if self._keeper is None or self._keeper.done():
            # In a context of its own: what it says belongs to no call.
            self._keeper = asyncio.create_task(self._keep(), context=contextvars.Context())

    async def close(self) -> None:
        """Ends what runs; another worker, or the next start, takes it up."""
        await _ended([self._keeper] if self._keeper else [])
        await self.restoring.close()
        await _ended(list(self._running.values()))

    async def _keep(self) -> None:
        while True:
            try:
                await self.restoring.restored()
                await self.take_up()
                await self.restoring.sweep_if_due()
            except LarimarError as error:
                log.warning("erasures wait: %s", error, reason=error.reason)
            await asyncio.sleep(PAUSE_S)

    async def take_up(self, left_s: float = LEFT_S) -> int:
        """Starts the work that other workers have left for `left_s`; how much there was."""
        async with self._starting:
            return await self._take_up(left_s)

    async def _take_up(self, left_s: float) -> int:
        started = 0
        jobs = await self._log.jobs()
        known = {(tenant, name) for tenant, _, name in jobs}
        for key in self._needles.keys() - known - self._running.keys():
            del self._needles[key]
        metrics.ERASE_JOBS.set(sum(name.startswith("erase:") for _, _, name in jobs))
        for tenant, bank, name in jobs:
            if not name.startswith("erase:") or (tenant, name) in self._running:
                continue
            try:
                started += await self._take_up_one(tenant, bank, name, left_s)
            except Unavailable:
                raise
            except Exception as error:  # one record that cannot be read holds up no other
                log.error(
                    "job %s of bank %s cannot be taken up: %s", name, bank, error,
                    tenant=tenant, bank=bank,
                )  # fmt: skip
                metrics.ERASE_FAILURES.inc()
        return started

    async def _take_up_one(self, tenant: str, bank: str, name: str, left_s: float) -> bool:
        found = await self._found(tenant, bank, name)
        if found is None:
            await self._log.end_job(tenant, bank, name)
            return False
        job, worker, seen = found
        # A time ahead of ours says that the clocks differ, not that it is at work.
        left = worker == self._worker or abs(time.time() - seen) > left_s
        if left:
            self._start(job)
        return left

    async def _found(
        self, tenant: str, bank: str, name: str, started_ms: int = 0
    ) -> tuple[Job, str, float] | None:
        """A job's record, its worker and when that was at work; of a bank that was deleted
        meanwhile, or made anew, by way of what is left of its family, whose erasure goes on.

        Args:
            started_ms: when it began, as another family may have a job of its name; 0: whenever.
        """
        found = await self._found_in(tenant, bank, name, started_ms)
        if found is not None:
            return found
        log.warning("bank %s was deleted while it was erased from", bank, tenant=tenant)
        for other in await self._log.banks(tenant):
            found = await self._found_in(tenant, other, name, started_ms)
            if found is not None:
                return found
        return None

    async def _found_in(
        self, tenant: str, bank: str, name: str, started_ms: int
    ) -> tuple[Job, str, float] | None:
        try:
            text = await self._log.record(tenant, bank, name)
        except NotFound:
            return None
        if text is None:
            return None
        job, worker, seen = Job.parse(tenant, text)
        job.through = bank
        return (job, worker, seen) if started_ms in (0, job.receipt.started_ms) else None

    async def _known(self, tenant: str, bank: str, event_id: str) -> Job | None:
        text = await self._log.record(tenant, bank, record_name(bank, event_id))
        return None if text is None else Job.parse(tenant, text)[0]

    async def _kept(self, job: Job) -> Job:
        """What is kept of an erasure in work.

        A record is put before work begins, and only `_forget` removes it: without one the bank was
        deleted. Where another has its place in which the facts are erased too, as a re-encoded one
        has, the work goes on there.

        Raises:
            NotFound: UNKNOWN_BANK, there is none, or one that keeps its facts: the work is over.
        """
        tenant, bank = job.tenant, job.receipt.bank
        found = await self._found(tenant, job.through, job.name, job.receipt.started_ms)
        if found is None:
            with contextlib.suppress(NotFound):
                if (await self._log.erased(tenant, bank)).issuperset(job.fact_ids):
                    text = job.text(self._worker)
                    await self._log.put_record(tenant, bank, job.name, text, new=True)
                    found = await self._found_in(tenant, bank, job.name, job.receipt.started_ms)
        if found is None:
            job.is_refused = True
            self._needles.pop((tenant, job.name), None)
            if await self._found(tenant, bank, job.name) is None:
                await self._log.end_job(tenant, bank, job.name)
            raise NotFound(
                f"bank {bank!r} was deleted while it was erased from, and the erasure is over: "
                "erase from a bank made anew under its name with a new event id",
                "UNKNOWN_BANK",
            )
        kept, _, _ = found
        job.through = kept.through
        return kept

    async def _check(self, tenant: str, bank: str, fact_ids: Sequence[str]) -> None:
        erased = await self._log.erased(tenant, bank)
        for fact_id in fact_ids:
            known = bool(await self._log.fact_events(tenant, bank, fact_id))
            status = "erased" if fact_id in erased else "forgotten" if known else None
            error = decide(Kind.ERASE, status)
            if error is not None:
                raise type(error)(f"{error.message} (fact {fact_id!r})", error.reason)

    def _start(self, job: Job) -> None:
        key = (job.tenant, job.name)
        job.needles = job.needles or self._needles.get(key, [])
        task = asyncio.create_task(self._work(job))
        self._running[key] = task
        task.add_done_callback(lambda _: self._running.pop(key, None))

    async def _work(self, job: Job) -> None:
        beat = asyncio.create_task(self._beat(job))
        steps: dict[int, Callable[[Job], Awaitable[None]]] = {
            common_pb2.ERASE_STEP_UNSPECIFIED: self._append,
            common_pb2.ERASE_STEP_APPENDED: self._replace_checkpoints,
            common_pb2.ERASE_STEP_CHECKPOINTED: self._remove,
            common_pb2.ERASE_STEP_REMOVED: self._rewrite,
            common_pb2.ERASE_STEP_REWRITTEN: self._prove,
        }
        try:
            while job.receipt.step != common_pb2.ERASE_STEP_DONE:
                await self._kept(job)  # and by way of which bank its family is reached now
                await steps[job.receipt.step](job)
            await self._end(job)
        except Exception as error:
            known = isinstance(error, LarimarError)
            job.receipt.failure = str(error) if known else f"unexpected {type(error).__name__}"
            log.warning(
                "erasure %s waits: %s", job.receipt.event_id, job.receipt.failure,
                tenant=job.tenant, bank=job.receipt.bank, event_id=job.receipt.event_id,
            )  # fmt: skip
            metrics.ERASE_FAILURES.inc()
            if not job.is_refused:
                with contextlib.suppress(LarimarError):
                    await self._keep_record(job)
        finally:
            beat.cancel()

    async def _end(self, job: Job) -> None:
        """Takes finished work off the list, unless another worker's record says otherwise."""
        tenant, bank = job.tenant, job.receipt.bank
        await self._log.end_job(tenant, bank, job.name)
        self._needles.pop((tenant, job.name), None)
        found = await self._found(tenant, bank, job.name)
        if found is not None and found[0].receipt.step != common_pb2.ERASE_STEP_DONE:
            await self._log.put_job(tenant, bank, job.name)

    async def _beat(self, job: Job) -> None:
        while True:
            await asyncio.sleep(PAUSE_S)
            if job.is_refused:
                return
            with contextlib.suppress(LarimarError):
                await self._keep_record(job)

    async def _keep_record(self, job: Job) -> None:
        """Keeps how far the work has come, unless another worker has come further. Raises: as
        `_kept`."""
        tenant, bank = job.tenant, job.receipt.bank
        step = (await self._kept(job)).receipt.step
        if step > job.receipt.step or step == common_pb2.ERASE_STEP_DONE:
            return
        text = job.text(self._worker)
        await self._log.put_record(tenant, job.through, job.name, text, new=False)
        if job.receipt.step != common_pb2.ERASE_STEP_DONE:
            await self._log.put_job(tenant, bank, job.name)

    async def _reached(self, job: Job, step: int) -> None:
        job.receipt.step = step  # type: ignore[assignment]
        job.receipt.failure = ""
        if step == common_pb2.ERASE_STEP_DONE:
            job.receipt.finished_ms = time.time_ns() // 10**6
        await self._keep_record(job)
        metrics.ERASE_STEPS.labels(common_pb2.EraseStep.Name(step).removeprefix(STEP)).inc()
        if self._on_step is not None:
            await self._on_step(job.receipt)

    async def _append(self, job: Job) -> None:
        tenant, bank, event_id = job.tenant, job.through, job.receipt.event_id
        key = (tenant, job.name)
        # Once ERASE is appended nobody reads any more what to search for.
        needles = await self._evidence.needles(tenant, bank, job.fact_ids)
        known = self._needles.get(key)
        job.needles = self._needles[key] = list(dict.fromkeys([*(known or []), *needles]))
        event_ids = _event_ids(event_id, len(job.fact_ids))
        items = [
            Append(Kind.ERASE, each, fact_id, request_body(Kind.ERASE, fact_id))
            for each, fact_id in zip(event_ids, job.fact_ids, strict=True)
        ]
        results = await self._log.erase(tenant, bank, items)
        if known is None and any(result.duplicate for result in results):
            # Another worker began: what it erased already is not among what to search for.
            job.needles = self._needles[key] = []
        errors = [result.error for result in results if result.error is not None]
        for error in errors:
            if error.reason != "ERASED":
                if len(errors) == len(results):
                    await self._forget(job)
                raise error
        family = await self._log.family(tenant, bank)
        ledger = await asyncio.to_thread(self._ledger.entries)
        del job.receipt.banks[:]
        noted = []
        for name in sorted(family):
            # A fork of an empty bank has a first entry of its own.
            first = await self._log.events(tenant, name, 0, 1)
            logs = lineage(ledger, tenant, first[0].chain) if first else []
            versions = []
            for fact_id in job.fact_ids:
                events = await self._log.fact_events(tenant, name, fact_id)
                erases = [event for event in events if event.kind == Kind.ERASE]
                versions += [event.version for event in erases]
                noted += [
                    Erasure(
                        tenant, name, chain, hashed(fact_id), event_id,
                        event.version, event.time_ms,
                    )
                    for event in erases
                    for chain in logs
                ]  # fmt: skip
            job.receipt.banks.add(bank=name, versions=sorted(versions))
        await asyncio.to_thread(self._ledger.add, noted)
        await self._reached(job, common_pb2.ERASE_STEP_APPENDED)

    async def _forget(self, job: Job) -> None:
        """Takes an erasure off all lists of which nothing was appended, and nothing can be."""
        job.is_refused = True
        self._needles.pop((job.tenant, job.name), None)
        await self._log.end_job(job.tenant, job.receipt.bank, job.name)
        await self._log.remove_record(job.tenant, job.through, job.name)

    async def _replace_checkpoints(self, job: Job) -> None:
        tenant = job.tenant
        if job.needles and not job.receipt.scan.found_before:
            searched = await self._evidence.search(tenant, job.through, job.needles)
            job.receipt.scan.found_before = searched.found
        removed = 0
        await self._leave_out_deleted(job)
        for bank in self._affected(job):
            config = await self._log.bank_config(tenant, bank.bank)
            kept = await self._log.checkpoints(tenant, bank.bank, "memory")
            if kept or config.addressing != "slots":  # whose sums lose a fact by its vectors only
                await self._follower.save_checkpoint(tenant, bank.bank)
            removed += await self._log.remove_checkpoints(
                tenant, bank.bank, before=max(bank.versions)
            )
        job.receipt.checkpoints_removed += removed
        await self._reached(job, common_pb2.ERASE_STEP_CHECKPOINTED)

    async def _remove(self, job: Job) -> None:
        tenant, bank = job.tenant, job.through
        # Payloads first: a bank that was made anew, whose facts are not erased, refuses here.
        removed = await self._log.remove_payloads(tenant, bank, job.fact_ids)
        # An import or a removal that was cut off may hold the facts, where no search looks.
        await self._log.sweep_loads(tenant, await self._logs(tenant, bank))
        job.receipt.payloads_removed += removed
        await self._leave_out_deleted(job)
        for affected in job.receipt.banks:
            queued = await self._queues.remove_facts(tenant, affected.bank, job.fact_ids)
            job.receipt.queue_entries_removed += queued
        await self._reached(job, common_pb2.ERASE_STEP_REMOVED)

    async def _logs(self, tenant: str, bank: str) -> set[str]:
        """The logs of a family, and those that they were re-encoded from, by their first entries'
        chain values."""
        ledger = await asyncio.to_thread(self._ledger.entries)
        found: set[str] = set()
        for name in await self._log.family(tenant, bank):
            for event in await self._log.events(tenant, name, 0, 1):
                found.update(lineage(ledger, tenant, event.chain))
        return found

    async def _rewrite(self, job: Job) -> None:
        await self._log.rewrite_files()
        await self._reached(job, common_pb2.ERASE_STEP_REWRITTEN)

    async def _prove(self, job: Job) -> None:
        tenant, bank, scan = job.tenant, job.through, job.receipt.scan
        left = job.needles
        if left:
            searched = await self._evidence.search(tenant, bank, left)
            if searched.found:
                job.needles = left = await self._evidence.not_shared(left)
                searched = await self._evidence.search(tenant, bank, left)
            scan.keys, scan.files, scan.bytes, scan.found = searched
            scan.not_searched = (
                "all that the facts held is held by other banks' facts too, in their own right"
                if not left
                else "the store's files are not on this machine: search them there"
                if await self._log.files() is None
                else ""
            )
        else:
            for field in ("keys", "files", "bytes", "found"):
                scan.ClearField(field)
            scan.not_searched = (
                "the work was taken up after what to search for was deleted: keys and payloads "
                "are gone and the files rewritten, but were not searched"
            )
        await self._leave_out_deleted(job)
        for affected in job.receipt.banks:
            verified = await self._follower.verified(tenant, affected.bank)
            affected.version, affected.digest = verified.version, verified.digest
            affected.erase_count = verified.erase_count
            affected.replay_matches = verified.matches
        if scan.found or not all(one.replay_matches for one in self._affected(job)):
            metrics.ERASE_INCOMPLETE.inc()
        await self._reached(job, common_pb2.ERASE_STEP_DONE)

    async def _leave_out_deleted(self, job: Job) -> None:
        """Takes the banks off the receipt that were deleted since: nothing of them is left."""
        family = await self._log.family(job.tenant, job.through)
        there = [bank for bank in job.receipt.banks if bank.bank in family]
        del job.receipt.banks[:]
        job.receipt.banks.extend(there)

    def _affected(self, job: Job) -> list[Any]:
        return [bank for bank in job.receipt.banks if bank.versions]


async def _ended(tasks: Sequence[asyncio.Task]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _event_ids(event_id: str, facts: int) -> list[str]:
    """The event ids of an erasure's ERASE events: its own first, so that no other request has it,
    before or after; the longest last."""
    return [event_id, *(f"{event_id}:{n}" for n in range(1, facts))]
