"""The memory service: appends events to the log, and reads what the log folds to."""

from __future__ import annotations

import asyncio
import bisect
import os
import time
import uuid
from collections.abc import Iterable, Sequence

import numpy as np

from larimar.errors import InvalidArgument, LarimarError
from larimar.memory import (
    BankConfig,
    BankState,
    Kind,
    Payload,
    ReadOut,
    make_payload,
    request_body,
)
from larimar.v1 import common_pb2, memory_pb2
from larimar.wire import (
    bytes_to_vector,
    config_from_proto,
    config_to_proto,
    vector_to_bytes,
)
from services.digests import check_digest
from services.follower import Follower
from services.limits import MAX_APPEND_ITEMS, check_bank_name
from services.log import Append, Log
from services.memory.erasure import NoQueues, Queues
from services.memory.events import KINDS, event_to_proto, fact_to_proto
from services.memory.ledger import EraseLedger
from services.memory.operations import (
    Operations,
    page_size,
    tenant_of,
    within_bytes,
    without_erased,
)
from services.observability.stages import passed, stage
from services.rpc import check_deadline
from services.threads import finished

MAX_READS = 1024
"""Query latents of one read."""
MAX_WAIT_S = 30.0
"""Longest wait for an event."""
POLL_S = 0.1
"""How often a waiting call looks at the log: 0.15 ms of the store each time."""
INLINE_READS = 4
"""Queries up to which a slots bank is read in place, 3 ms each: threads may all be busy."""
INLINE_FACTS = 50_000
"""Facts up to which it is: past them the search is what takes time, a millisecond for 16,000."""
NOISE_LIMIT = 1e3
"""Largest standard deviation of the noise on w: weights are at most about 1."""


class MemoryService(Operations):
    """Implements larimar.v1.Memory over the log port and a follower of it.

    Args:
        queues: the message queues, from which an erasure takes what concerns its facts.
        ledger: what was erased, kept outside of the store.
    """

    def __init__(
        self,
        log: Log,
        follower: Follower,
        queues: Queues | None = None,
        ledger: EraseLedger | None = None,
    ) -> None:
        super().__init__(log, follower, queues or NoQueues(), ledger or EraseLedger(None))
        self._instance_id = uuid.uuid4().hex
        self._sorted_ids: dict[tuple[str, str], tuple[str, list[str]]] = {}

    async def MakeBank(self, request, grpc_context):
        """Makes a bank, or finds that it is there already."""
        config = config_from_proto(request.config)
        bank = check_bank_name(request.config.bank)
        stored, created = await self._log.make_bank(tenant_of(request), bank, config)
        return memory_pb2.MakeBankResponse(config=config_to_proto(bank, stored), created=created)

    async def DescribeBank(self, request, grpc_context):
        """A bank's configuration and size."""
        info = await self._info(tenant_of(request), request.bank)
        return memory_pb2.DescribeBankResponse(info=info)

    async def EnumerateBanks(self, request, grpc_context):
        """All banks of a tenant."""
        tenant = tenant_of(request)
        names = await self._log.banks(tenant)
        listed = [await self._listed(tenant, name) for name in names]
        return memory_pb2.EnumerateBanksResponse(banks=[one for one in listed if one is not None])

    async def DropBank(self, request, grpc_context):
        """Removes a bank."""
        existed = await self._log.drop_bank(tenant_of(request), request.bank)
        return memory_pb2.DropBankResponse(existed=existed)

    async def Append(self, request, grpc_context):
        """Appends events, atomically, with a result for each."""
        check_deadline(request)
        if len(request.items) > MAX_APPEND_ITEMS:
            raise InvalidArgument(
                f"{len(request.items)} events in a call, the limit is {MAX_APPEND_ITEMS}: split it",
                "TOO_MANY_ITEMS",
            )
        tenant = tenant_of(request)
        stopped = self._follower.stopped(tenant, request.bank)
        if stopped is not None:
            raise stopped
        config = await self._log.bank_config(tenant, request.bank)
        if any(item.kind == common_pb2.EVENT_KIND_WRITE for item in request.items):
            check_digest("encoder", request.encoder_digest, config.encoder_digest)
            check_digest("scope", request.scope_digest, config.scope_digest)
        with stage("payloads", items=len(request.items)):
            made = await asyncio.to_thread(_appends, config, list(request.items))
        rows = sum(1 + len(item.rephrasings) for item in request.items if item.prompt_latents)
        full = await self._capacity.refusal(tenant, request.bank, rows)
        if full is not None:
            made = [await self._unless_new(tenant, request.bank, one, full) for one in made]
        good = [append for append in made if isinstance(append, Append)]
        with stage("append", items=len(good)):
            appended = await self._log.append(tenant, request.bank, good, config)
        self._capacity.note(tenant, request.bank, appended)
        answers = iter(appended)
        results = []
        for item, append in zip(request.items, made, strict=True):
            result = memory_pb2.AppendResult(event_id=item.event_id, fact_id=item.fact_id)
            error = append if isinstance(append, LarimarError) else None
            if error is None:
                answer = next(answers)
                error = answer.error
                result.version = answer.version
                result.duplicate = answer.duplicate
            if error is not None:
                result.status.CopyFrom(
                    common_pb2.Status(code=error.code, reason=error.reason, message=error.message)
                )
            results.append(result)
        return memory_pb2.AppendResponse(results=results)

    async def _unless_new(
        self, tenant: str, bank: str, made: Append | LarimarError, full: LarimarError
    ) -> Append | LarimarError:
        """What becomes of an item of a full bank: a write that it has already is answered."""
        if not isinstance(made, Append) or made.kind is not Kind.WRITE:
            return made
        events = await self._log.fact_events(tenant, bank, made.fact_id)
        return made if any(event.event_id == made.event_id for event in events) else full

    async def Read(self, request, grpc_context):
        """Reads the memory with query latents, at the newest version or a past one."""
        await self._eraser.restoring.restored(tenant_of(request), request.bank)
        check_deadline(request)
        if len(request.prompt_latents) > MAX_READS:
            raise InvalidArgument(
                f"{len(request.prompt_latents)} reads in a call, at most {MAX_READS}: split it",
                "TOO_MANY_ITEMS",
            )
        if not 0 <= request.noise <= NOISE_LIMIT:
            raise InvalidArgument(f"noise is {request.noise}, it must be 0 to {NOISE_LIMIT:g}")
        async with self._follower.view(
            tenant_of(request),
            request.bank,
            min_version=request.min_version,
            at_version=request.at_version,
            allow_stale=request.allow_stale,
        ) as view:
            state = view.state
            if request.encoder_digest:
                check_digest("encoder", request.encoder_digest, state.config.encoder_digest, "read")
            queries = [
                bytes_to_vector(raw, state.config.prompt_size, "prompt latent")
                for raw in request.prompt_latents
            ]
            readouts = await self._readouts(state, queries, request)
            version = state.version
        return memory_pb2.ReadResponse(
            readouts=[
                memory_pb2.ReadOut(
                    value=vector_to_bytes(out.value), fact_id=out.fact_id, weight=out.weight
                )
                for out in readouts
            ],
            version=version,
            stale=view.stale,
        )

    async def _readouts(
        self, state: BankState, queries: list[np.ndarray], request
    ) -> list[ReadOut]:
        """What is read at each query; what a bank with K slots must solve first is a stage too.

        Cost: O(K^3) for such a bank after an edit, seconds for K = 2048; never on the event loop.
        """
        if not queries:
            return []
        started_s, solved_s = time.monotonic(), state.solve_time_s
        asked = np.stack(queries), request.noise, request.noise_seed
        small = len(queries) <= INLINE_READS and len(state) <= INLINE_FACTS
        if state.sums is None and small:
            found = state.read(*asked)
        else:
            found = await finished(state.read, *asked)
        solving_s = state.solve_time_s - solved_s
        if solving_s:
            passed("solve", started_s, started_s + solving_s)
        passed("read", started_s + solving_s, time.monotonic(), queries=len(queries))
        return found

    async def EnumerateFacts(self, request, grpc_context):
        """A page of live facts, in order of fact id."""
        await self._eraser.restoring.restored(tenant_of(request), request.bank)
        size = page_size(request.page_size)
        return await without_erased(lambda: self._enumerated(request, size))

    async def _enumerated(self, request, size: int) -> memory_pb2.EnumerateFactsResponse:
        tenant = tenant_of(request)
        async with self._follower.view(tenant, request.bank, at_version=request.at_version) as view:
            state = view.state
            version, total = state.version, len(state)
            page, more = await self._page_of_facts(tenant, request, state, size)

        async def read(part: Sequence[tuple[str, int]]) -> list[common_pb2.Fact]:
            versions = [fact_version for _, fact_version in part]
            payloads = await self._log.payloads(tenant, request.bank, versions)
            made = zip(payloads, versions, strict=True)
            return [fact_to_proto(Payload.from_bytes(raw), version) for raw, version in made]

        facts = await within_bytes(page, read)
        return memory_pb2.EnumerateFactsResponse(
            facts=facts,
            version=version,
            total=total,
            next_after=facts[-1].fact_id if more or len(facts) < len(page) else "",
        )

    async def EnumerateEvents(self, request, grpc_context):
        """A page of the log, or all that happened to a fact."""
        tenant, bank = tenant_of(request), request.bank
        await self._log.bank_config(tenant, bank)
        size = page_size(request.page_size)
        if request.fact_id:
            events = (await self._log.fact_events(tenant, bank, request.fact_id))[:size]
        else:
            events = await self._awaited_events(request, size)
        version, _, _ = await self._log.head(tenant, bank)
        erased = await self._log.erased(tenant, bank)
        return memory_pb2.EnumerateEventsResponse(
            events=[event_to_proto(event, event.fact_id in erased) for event in events],
            version=version,
            erased=request.fact_id in erased,
        )

    async def _awaited_events(self, request, size: int) -> list:
        """Events after a version; where there are none, what comes within the time to wait."""
        until = time.monotonic() + min(max(request.wait_s, 0.0), MAX_WAIT_S)
        tenant, after = tenant_of(request), request.after_version
        while True:
            events = await self._log.events(tenant, request.bank, after, size)
            if events or time.monotonic() >= until:
                return events
            await asyncio.sleep(POLL_S)

    async def ComputeDigest(self, request, grpc_context):
        """The digest at the newest version or a past one."""
        async with self._follower.view(
            tenant_of(request), request.bank, at_version=request.at_version
        ) as view:
            state = view.state
            digest = await finished(state.digest)
            folded = await finished(state.folded_sha256)
            return memory_pb2.ComputeDigestResponse(
                digest=digest,
                version=state.version,
                facts=len(state),
                erase_count=state.erase_count,
                folded_sha256=folded,
            )

    async def RebuildBank(self, request, grpc_context):
        """Folds the log from nothing and compares digest and folded bytes with the served state."""
        verified = await self._follower.verified(tenant_of(request), request.bank)
        return memory_pb2.RebuildBankResponse(
            version=verified.version,
            events=verified.version,
            seconds=verified.seconds,
            digest=verified.digest,
            folded_sha256=verified.folded_sha256,
            matches=verified.matches,
        )

    async def SaveCheckpoint(self, request, grpc_context):
        """Saves a checkpoint of the newest version."""
        version, digest, size = await self._follower.save_checkpoint(
            tenant_of(request), request.bank
        )
        return memory_pb2.SaveCheckpointResponse(version=version, digest=digest, bytes=size)

    async def DescribeMemory(self, request, grpc_context):
        """Which process this is; UNAVAILABLE when the store does not answer."""
        await self._eraser.restoring.restored()
        self._eraser.keep()
        await self._log.ping()
        return memory_pb2.DescribeMemoryResponse(
            pid=os.getpid(),
            instance_id=self._instance_id,
            banks_held=self._follower.banks_held,
            state_bytes=self._follower.bytes_held,
            stopped=self._follower.stopped_banks,
        )

    async def _page_of_facts(
        self, tenant: str, request, state: BankState, size: int
    ) -> tuple[list[tuple[str, int]], bool]:
        if request.fact_id:
            live = state.facts.get(request.fact_id)
            return ([(request.fact_id, live[0])] if live else []), False
        key = (tenant, request.bank)
        known_at, ids = self._sorted_ids.get(key, ("", []))
        at = f"{state.chain} {state.erase_count}"
        if known_at != at:
            ids = await finished(_in_order, state.facts)
            self._sorted_ids = {key: (at, ids)}
        low = bisect.bisect_right(ids, request.after) if request.after else 0
        page = [(fact_id, state.facts[fact_id][0]) for fact_id in ids[low : low + size]]
        return page, low + size < len(ids)


def _in_order(ids: Iterable[str]) -> list[str]:
    return sorted(ids)


def _appends(config: BankConfig, items: list) -> list[Append | LarimarError]:
    made: list[Append | LarimarError] = []
    for item in items:
        try:
            made.append(_append(config, item))
        except LarimarError as error:
            made.append(error)
    return made


def _append(config: BankConfig, item) -> Append:
    kind = KINDS.get(item.kind)
    if kind is None or kind is Kind.ERASE:  # which has a call of its own
        raise InvalidArgument(f"event kind {item.kind} cannot be appended", "BAD_KIND")
    rephrasings = tuple(item.rephrasings)
    body = request_body(kind, item.fact_id, item.prompt, item.answer, rephrasings)
    payload = None
    if kind is Kind.WRITE:
        payload = make_payload(
            config,
            item.fact_id,
            item.prompt,
            item.answer,
            rephrasings,
            _rows(item.prompt_latents, config.prompt_size, "prompt latent"),
            bytes_to_vector(item.value, config.value_size, "value"),
            _rows(item.scope_vectors, config.scope_size, "scope vector"),
        ).to_bytes()
    expected = item.expected_version if item.HasField("expected_version") else None
    return Append(kind, item.event_id, item.fact_id, body, payload, expected)


def _rows(raws, size: int, name: str) -> np.ndarray:
    if not raws:
        raise InvalidArgument(f"a write needs a {name} of its prompt", "WRONG_SHAPE")
    return np.stack([bytes_to_vector(raw, size, name) for raw in raws])
