"""The memory service: appends events to the log, and reads what the log folds to."""

from __future__ import annotations

import asyncio
import bisect
import os
import time
import uuid

import numpy as np

from larimar.errors import FailedPrecondition, InvalidArgument, LarimarError, Unavailable
from larimar.memory import BankConfig, BankState, Kind, Payload, make_payload, request_body
from larimar.v1 import common_pb2, memory_pb2, memory_pb2_grpc
from larimar.wire import (
    bytes_to_vector,
    config_from_proto,
    config_to_proto,
    vector_to_bytes,
)
from services.follower import Follower
from services.limits import MAX_APPEND_ITEMS, check_bank_name
from services.log import Append, Log
from services.rpc import check_deadline

MAX_READS = 1024
"""Query latents of one read."""
MAX_PAGE = 1000
"""Facts or events of one page."""
DEFAULT_PAGE = 100
MAX_REBUILD_ROUNDS = 20
"""Times a rebuilt state is brought up to what is served, while others write."""

_KINDS = {common_pb2.EVENT_KIND_WRITE: Kind.WRITE, common_pb2.EVENT_KIND_FORGET: Kind.FORGET}
_KIND_NUMBERS = {kind: number for number, kind in _KINDS.items()}


class MemoryService(memory_pb2_grpc.MemoryServicer):
    """Implements larimar.v1.Memory over the log port and a follower of it."""

    def __init__(self, log: Log, follower: Follower) -> None:
        self._log = log
        self._follower = follower
        self._instance_id = uuid.uuid4().hex
        self._sorted_ids: dict[tuple[str, str], tuple[str, list[str]]] = {}

    async def MakeBank(self, request, grpc_context):
        """Makes a bank, or finds that it is there already."""
        config = config_from_proto(request.config)
        bank = check_bank_name(request.config.bank)
        stored, created = await self._log.make_bank(_tenant(request), bank, config)
        return memory_pb2.MakeBankResponse(config=config_to_proto(bank, stored), created=created)

    async def DescribeBank(self, request, grpc_context):
        """A bank's configuration and size."""
        info = await self._info(_tenant(request), request.bank)
        return memory_pb2.DescribeBankResponse(info=info)

    async def EnumerateBanks(self, request, grpc_context):
        """All banks of a tenant."""
        tenant = _tenant(request)
        names = await self._log.banks(tenant)
        return memory_pb2.EnumerateBanksResponse(
            banks=[await self._info(tenant, name) for name in names]
        )

    async def DropBank(self, request, grpc_context):
        """Removes a bank."""
        existed = await self._log.drop_bank(_tenant(request), request.bank)
        return memory_pb2.DropBankResponse(existed=existed)

    async def Append(self, request, grpc_context):
        """Appends events, atomically, with a result for each."""
        check_deadline(request)
        if len(request.items) > MAX_APPEND_ITEMS:
            raise InvalidArgument(
                f"{len(request.items)} events in a call, the limit is {MAX_APPEND_ITEMS}: split it",
                "TOO_MANY_ITEMS",
            )
        tenant = _tenant(request)
        config = await self._log.bank_config(tenant, request.bank)
        if any(item.kind == common_pb2.EVENT_KIND_WRITE for item in request.items):
            _check_digest("encoder", request.encoder_digest, config.encoder_digest)
            _check_digest("scope", request.scope_digest, config.scope_digest)
        made = await asyncio.to_thread(_appends, config, list(request.items))
        good = [append for append in made if isinstance(append, Append)]
        answers = iter(await self._log.append(tenant, request.bank, good))
        results = []
        for item, append in zip(request.items, made, strict=True):
            result = memory_pb2.AppendResult(event_id=item.event_id, fact_id=item.fact_id)
            error = append if isinstance(append, LarimarError) else None
            if error is None:
                appended = next(answers)
                error = appended.error
                result.version = appended.version
                result.duplicate = appended.duplicate
            if error is not None:
                result.status.CopyFrom(
                    common_pb2.Status(code=error.code, reason=error.reason, message=error.message)
                )
            results.append(result)
        return memory_pb2.AppendResponse(results=results)

    async def Read(self, request, grpc_context):
        """Reads the memory with query latents, at the newest version."""
        check_deadline(request)
        if len(request.prompt_latents) > MAX_READS:
            raise InvalidArgument(
                f"{len(request.prompt_latents)} reads in a call, at most {MAX_READS}: split it",
                "TOO_MANY_ITEMS",
            )
        tenant = _tenant(request)
        async with self._follower.state(tenant, request.bank, request.min_version) as state:
            queries = [
                bytes_to_vector(raw, state.config.prompt_size, "prompt latent")
                for raw in request.prompt_latents
            ]
            readouts = state.read(np.stack(queries)) if queries else []
            version = state.version
        return memory_pb2.ReadResponse(
            readouts=[
                memory_pb2.ReadOut(
                    value=vector_to_bytes(out.value), fact_id=out.fact_id, weight=out.weight
                )
                for out in readouts
            ],
            version=version,
        )

    async def EnumerateFacts(self, request, grpc_context):
        """A page of live facts, in order of fact id."""
        tenant = _tenant(request)
        size = _page_size(request.page_size)
        async with self._follower.state(tenant, request.bank) as state:
            version, total = state.version, len(state)
            page, more = self._page_of_facts(tenant, request, state, size)
        payloads = await self._log.payloads(tenant, request.bank, [v for _, v in page])
        facts = []
        for (fact_id, fact_version), raw in zip(page, payloads, strict=True):
            payload = Payload.from_bytes(raw)
            facts.append(
                common_pb2.Fact(
                    fact_id=fact_id,
                    prompt=payload.prompt,
                    answer=payload.answer,
                    rephrasings=payload.rephrasings,
                    version=fact_version,
                )
            )
        return memory_pb2.EnumerateFactsResponse(
            facts=facts,
            version=version,
            total=total,
            next_after=page[-1][0] if more else "",
        )

    async def EnumerateEvents(self, request, grpc_context):
        """A page of the log."""
        tenant = _tenant(request)
        await self._log.bank_config(tenant, request.bank)
        size = _page_size(request.page_size)
        events = await self._log.events(tenant, request.bank, request.after_version, size)
        version, _ = await self._log.head(tenant, request.bank)
        return memory_pb2.EnumerateEventsResponse(
            events=[
                common_pb2.Event(
                    version=event.version,
                    kind=_KIND_NUMBERS[Kind(event.kind)],
                    fact_id=event.fact_id,
                    event_id=event.event_id,
                    time_ms=event.time_ms,
                    payload_sha256=event.payload_sha256,
                    chain=event.chain,
                )
                for event in events
            ],
            version=version,
        )

    async def ComputeDigest(self, request, grpc_context):
        """The digest at the newest version."""
        async with self._follower.state(_tenant(request), request.bank) as state:
            return memory_pb2.ComputeDigestResponse(
                digest=state.digest(), version=state.version, facts=len(state)
            )

    async def RebuildBank(self, request, grpc_context):
        """Folds the log from nothing and compares digest and folded bytes with the served state."""
        tenant = _tenant(request)
        started = time.monotonic()
        rebuilt = await self._follower.rebuilt(tenant, request.bank)
        seconds = time.monotonic() - started
        for _ in range(MAX_REBUILD_ROUNDS):
            async with self._follower.state(tenant, request.bank, rebuilt.version) as state:
                served_version = state.version
                served = (state.digest(), state.folded_sha256())
            if served_version == rebuilt.version:
                break
            await self._follower.fold_tail(rebuilt, tenant, request.bank)
        else:
            raise Unavailable("the bank is written to faster than it replays: retry", "BUSY")
        digest, folded = rebuilt.digest(), rebuilt.folded_sha256()
        return memory_pb2.RebuildBankResponse(
            version=rebuilt.version,
            events=rebuilt.version,
            seconds=seconds,
            digest=digest,
            folded_sha256=folded,
            matches=(digest, folded) == served,
        )

    async def SaveCheckpoint(self, request, grpc_context):
        """Saves a checkpoint of the newest version."""
        version, digest, size = await self._follower.save_checkpoint(_tenant(request), request.bank)
        return memory_pb2.SaveCheckpointResponse(version=version, digest=digest, bytes=size)

    async def DescribeMemory(self, request, grpc_context):
        """Which process this is; UNAVAILABLE when the store does not answer."""
        await self._log.ping()
        return memory_pb2.DescribeMemoryResponse(
            pid=os.getpid(),
            instance_id=self._instance_id,
            banks_held=self._follower.banks_held,
            state_bytes=self._follower.bytes_held,
        )

    def _page_of_facts(
        self, tenant: str, request, state: BankState, size: int
    ) -> tuple[list[tuple[str, int]], bool]:
        if request.fact_id:
            live = state.facts.get(request.fact_id)
            return ([(request.fact_id, live[0])] if live else []), False
        key = (tenant, request.bank)
        chain, ids = self._sorted_ids.get(key, ("", []))
        if chain != state.chain:
            ids = sorted(state.facts)
            self._sorted_ids = {key: (state.chain, ids)}
        low = bisect.bisect_right(ids, request.after) if request.after else 0
        page = [(fact_id, state.facts[fact_id][0]) for fact_id in ids[low : low + size]]
        return page, low + size < len(ids)

    async def _info(self, tenant: str, bank: str) -> memory_pb2.BankInfo:
        async with self._follower.state(tenant, bank) as state:
            return memory_pb2.BankInfo(
                config=config_to_proto(bank, state.config),
                version=state.version,
                facts=len(state),
                state_bytes=state.bytes_held,
            )


def _tenant(request) -> str:
    return request.context.tenant or "default"


def _page_size(asked: int) -> int:
    if asked < 0 or asked > MAX_PAGE:
        raise InvalidArgument(f"page_size is {asked}, it must be 1 to {MAX_PAGE}", "BAD_PAGE_SIZE")
    return asked or DEFAULT_PAGE


def _check_digest(what: str, sent: str, wanted: str) -> None:
    if sent != wanted:
        raise FailedPrecondition(
            f"the bank was made with {what} {wanted[:12]}, this write comes from {what} "
            f"{sent[:12] or '(none)'}: serve the bank's own model, or make a new bank",
            f"WRONG_{what.upper()}",
        )


def _appends(config: BankConfig, items: list) -> list[Append | LarimarError]:
    made: list[Append | LarimarError] = []
    for item in items:
        try:
            made.append(_append(config, item))
        except LarimarError as error:
            made.append(error)
    return made


def _append(config: BankConfig, item) -> Append:
    kind = _KINDS.get(item.kind)
    if kind is None:
        raise InvalidArgument(f"unknown event kind {item.kind}", "BAD_KIND")
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
    return Append(kind, item.event_id, item.fact_id, body, payload)


def _rows(raws, size: int, name: str) -> np.ndarray:
    if not raws:
        raise InvalidArgument(f"a write needs a {name} of its prompt", "WRONG_SHAPE")
    return np.stack([bytes_to_vector(raw, size, name) for raw in raws])
