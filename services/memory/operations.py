"""What operators do with banks: erase, fork, merge, compare, archive, and read as a whole."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np

from larimar.errors import DataLoss, InvalidArgument, LarimarError, NotFound, Unavailable
from larimar.memory import Payload
from larimar.readout import Items
from larimar.recall import EPISODE_SIZE, RecursiveRead, read_recursively
from larimar.v1 import common_pb2, memory_pb2, memory_pb2_grpc
from larimar.wire import bytes_to_vector, config_to_proto, vector_to_bytes
from services.digests import check_digest
from services.follower import Follower
from services.limits import MAX_PAGE, check_bank_name, check_id, check_version
from services.log import Log
from services.memory.archives import Archivist
from services.memory.branches import Brancher, Change, Facts, Live, changes
from services.memory.capacity import Capacity
from services.memory.erasure import Eraser, Queues
from services.memory.events import fact_to_proto
from services.memory.ledger import EraseLedger
from services.threads import finished

DEFAULT_PAGE = 100
PAGE_BYTES = 4 * 2**20
"""Texts after which a page of facts or changes ends: a message holds at most 8 MiB."""
FETCHED = 100
"""Facts of a page whose payloads are read at once: those of long texts soon fill it."""
MAX_SAMPLES = 64
"""Latents sampled by one call."""
NAMED_WEIGHTS = 16
"""Facts that a recursive reading names."""
NAMED_CONFLICTS = 1000
"""Conflicts, and overtaken facts, that the answer to a merge lists."""

S = TypeVar("S")
M = TypeVar("M", common_pb2.Fact, common_pb2.FactChange)

_KINDS = common_pb2.FactChange.Kind
_POLICIES = {
    common_pb2.MERGE_POLICY_UNSPECIFIED: "fail",
    common_pb2.MERGE_POLICY_FAIL: "fail",
    common_pb2.MERGE_POLICY_OURS: "ours",
    common_pb2.MERGE_POLICY_THEIRS: "theirs",
}


class Operations(memory_pb2_grpc.MemoryServicer):
    """The part of larimar.v1.Memory that concerns banks as a whole."""

    def __init__(self, log: Log, follower: Follower, queues: Queues, ledger: EraseLedger) -> None:
        self._log = log
        self._follower = follower
        self._capacity = Capacity(follower)
        self._brancher = Brancher(log, follower, self._capacity)
        self._archivist = Archivist(log, follower)
        self._eraser = Eraser(log, follower, queues, ledger)

    async def EraseFacts(self, request, grpc_context):
        """Erases facts from a bank and all its forks; the work goes on after the answer."""
        self._eraser.keep()
        receipt = await self._eraser.erase(
            tenant_of(request), request.bank, list(request.fact_ids), request.event_id
        )
        return memory_pb2.EraseFactsResponse(receipt=receipt)

    async def DescribeErase(self, request, grpc_context):
        """How far an erasure has come."""
        self._eraser.keep()
        receipt = await self._eraser.receipt(tenant_of(request), request.bank, request.event_id)
        return memory_pb2.DescribeEraseResponse(receipt=receipt)

    async def BranchBank(self, request, grpc_context):
        """Makes a bank that shares another's history up to a version."""
        tenant = tenant_of(request)
        new = check_bank_name(request.new_bank)
        created = await self._brancher.fork(tenant, request.bank, new, request.at_version)
        return memory_pb2.BranchBankResponse(info=await self._info(tenant, new), created=created)

    async def CombineBanks(self, request, grpc_context):
        """Applies to a bank what a bank of its family has changed since they parted."""
        if not request.merge_id:
            raise InvalidArgument("a merge needs a merge id", "EMPTY_ID")
        policy = _POLICIES.get(request.policy)
        if policy is None:
            raise InvalidArgument(f"unknown merge policy {request.policy}", "BAD_POLICY")
        merge_id = check_id("merge id", request.merge_id)
        merged = await without_erased(
            lambda: self._brancher.merge(
                tenant_of(request),
                request.source,
                request.target,
                policy,
                merge_id,
                request.dry_run,
            )
        )
        return memory_pb2.CombineBanksResponse(
            merge_id=request.merge_id,
            base_version=merged.plan.base.version,
            source_version=merged.plan.source.version,
            target_version=merged.plan.target.version,
            written=merged.written,
            forgotten=merged.forgotten,
            conflicts=[
                common_pb2.MergeConflict(
                    fact_id=fact_id,
                    base_version=base,
                    target_version=target,
                    source_version=source,
                )
                for fact_id, base, target, source in merged.conflicts[:NAMED_CONFLICTS]
            ],
            conflict_count=len(merged.conflicts),
            overtaken=merged.overtaken[:NAMED_CONFLICTS],
            version=merged.version,
        )

    async def CompareVersions(self, request, grpc_context):
        """Facts added, removed and changed between two states."""
        await self._eraser.restoring.restored(tenant_of(request), request.bank, request.to_bank)
        return await without_erased(lambda: self._compared(request))

    async def _compared(self, request) -> memory_pb2.CompareVersionsResponse:
        tenant, size = tenant_of(request), page_size(request.page_size)
        to_bank = request.to_bank or request.bank
        before: Facts = {}
        if request.from_version < 0:
            raise InvalidArgument("from_version must be 0, for an empty bank, or a version")
        await self._log.bank_config(tenant, request.bank)
        if request.from_version:
            before, _ = await self._brancher.facts_at(tenant, request.bank, request.from_version)
        after, to_version = await self._brancher.facts_at(tenant, to_bank, request.to_version)
        compared = await asyncio.to_thread(_Compared, changes(before, after), request.after, size)

        async def read(part: Sequence[Change]) -> list[common_pb2.FactChange]:
            return await self._changes(tenant, request.bank, to_bank, part)

        shown = await within_bytes(compared.page, read)
        more = compared.more or len(shown) < len(compared.page)
        return memory_pb2.CompareVersionsResponse(
            changes=shown,
            from_version=request.from_version,
            to_version=to_version,
            added=compared.counts[_KINDS.KIND_ADDED],
            removed=compared.counts[_KINDS.KIND_REMOVED],
            changed=compared.counts[_KINDS.KIND_CHANGED],
            next_after=shown[-1].fact_id if more else "",
        )

    async def _changes(
        self, tenant: str, bank: str, to_bank: str, part: Sequence[Change]
    ) -> list[common_pb2.FactChange]:
        befores = await self._facts(tenant, bank, [one for _, one, _ in part])
        afters = await self._facts(tenant, to_bank, [one for _, _, one in part])
        return [
            common_pb2.FactChange(
                kind=_kind(old, new),
                fact_id=fact_id,
                before=befores.get(old.version) if old else None,
                after=afters.get(new.version) if new else None,
            )
            for fact_id, old, new in part
        ]

    async def _facts(
        self, tenant: str, bank: str, lives: list[Live | None]
    ) -> dict[int, common_pb2.Fact]:
        versions = [live.version for live in lives if live is not None]
        payloads = await self._log.payloads(tenant, bank, versions)
        return {
            version: fact_to_proto(Payload.from_bytes(raw), version)
            for version, raw in zip(versions, payloads, strict=True)
        }

    async def DumpBank(self, request, grpc_context) -> AsyncIterator:
        """The whole log of a bank with its payloads."""
        await self._eraser.restoring.restored(tenant_of(request), request.bank)
        tenant, after = tenant_of(request), check_version("after_version", request.after_version)
        async for message in self._archivist.dump(tenant, request.bank, after):
            yield message

    async def LoadBank(self, request, grpc_context):
        """Takes the next records of a bank; with the last ones it becomes visible."""
        tenant, bank = tenant_of(request), check_bank_name(request.bank)
        header = request.header if request.HasField("header") else None
        replaces = request.replaces_version if request.HasField("replaces_version") else None
        over = replaces is not None
        if header is not None and await self._archivist.is_loaded(tenant, bank, header, over):
            version, chain = header.version, header.chain
        else:
            if request.reencoded_from:
                await self._eraser.restoring.note_reencoded(
                    tenant, bank, request.reencoded_from, list(request.records)
                )
            version, chain = await self._archivist.load(
                tenant, bank, list(request.records), request.source, over
            )
        if not request.last:
            return memory_pb2.LoadBankResponse(version=version, chain=chain)
        if header is None:
            raise InvalidArgument("the last call of a load carries the archive's header")
        (digest, _), again = await self._eraser.restoring.shown(
            tenant,
            bank,
            header.erased_fact_ids,
            lambda: self._archivist.finish(tenant, bank, header, request.source, replaces),
        )
        return memory_pb2.LoadBankResponse(
            info=await self._info(tenant, bank),
            digest=digest,
            erased_again=again,
            version=version,
            chain=chain,
        )

    async def SampleLatents(self, request, grpc_context):
        """Latents z = w M of addresses drawn from N(0, I)."""
        await self._eraser.restoring.restored(tenant_of(request), request.bank)
        count = request.count or 1
        if not 1 <= count <= MAX_SAMPLES:
            raise InvalidArgument(f"count is {count}, it must be 1 to {MAX_SAMPLES}")
        async with self._follower.view(
            tenant_of(request), request.bank, at_version=request.at_version
        ) as view:
            values = await finished(view.state.sample, count, request.seed)
            return memory_pb2.SampleLatentsResponse(
                values=[vector_to_bytes(value) for value in values],
                version=view.state.version,
                encoder_digest=view.state.config.encoder_digest,
            )

    async def ReadRecursively(self, request, grpc_context):
        """Reads each episode of facts, then the read-outs, until one is left."""
        await self._eraser.restoring.restored(tenant_of(request), request.bank)
        episode = request.episode_size or EPISODE_SIZE
        async with self._follower.view(
            tenant_of(request), request.bank, at_version=request.at_version
        ) as view:
            state = view.state
            config, version = state.config, state.version
            if request.encoder_digest:
                check_digest("encoder", request.encoder_digest, config.encoder_digest, "read")
            query = bytes_to_vector(request.prompt_latent, config.prompt_size, "prompt latent")
            items = await finished(state.items, request.fact_id_prefix)
        read = await asyncio.to_thread(_read_recursively, items, query, episode, config.alpha)
        ids = items.ids
        order = sorted(range(len(ids)), key=lambda i: (-read.weights_n[i], ids[i]))
        return memory_pb2.ReadRecursivelyResponse(
            value=vector_to_bytes(read.value),
            weights=[
                memory_pb2.FactWeight(fact_id=ids[i], weight=float(read.weights_n[i]))
                for i in order[:NAMED_WEIGHTS]
                if read.weights_n[i] > 0
            ],
            levels=read.levels,
            facts=len(ids),
            version=version,
        )

    async def _listed(self, tenant: str, bank: str) -> memory_pb2.BankInfo | None:
        """A bank of a list: one that cannot be served says why, and leaves the others in it; None
        for one that was deleted meanwhile. Raises: Unavailable."""
        with contextlib.suppress(NotFound):
            try:
                return await self._info(tenant, bank)
            except (NotFound, Unavailable):
                raise
            except LarimarError as error:
                config = config_to_proto(bank, await self._log.bank_config(tenant, bank))
                return memory_pb2.BankInfo(config=config, stopped=error.message)
        return None

    async def _info(self, tenant: str, bank: str) -> memory_pb2.BankInfo:
        async with self._follower.state(tenant, bank) as state:
            info = memory_pb2.BankInfo(
                config=config_to_proto(bank, state.config),
                version=state.version,
                facts=len(state),
                state_bytes=state.bytes_held,
                erase_count=state.erase_count,
                fill=state.fill,
            )
        origin = (await self._log.family(tenant, bank)).get(bank)
        if origin is not None:
            info.origin.CopyFrom(
                common_pb2.Origin(bank=origin.bank, version=origin.version, chain=origin.chain)
            )
        return info


def _read_recursively(items: Items, query: np.ndarray, episode: int, alpha: float) -> RecursiveRead:
    return read_recursively(
        np.ldexp(items.addresses.astype(np.float64), -items.address_bits),
        np.ldexp(items.values.astype(np.float64), -items.value_bits),
        np.asarray(query, np.float64),
        episode,
        alpha,
    )


class _Compared:
    """A page of what two states do not agree on, and how much of each kind there is in all.

    Attributes:
        page: the first changes behind a fact id.
        more: whether others follow.
        counts: changes by kind, those of all pages.
    """

    def __init__(self, differing: Iterable[Change], after: str, size: int) -> None:
        self.page: list[Change] = []
        self.more = False
        self.counts: Counter[int] = Counter()
        for change in differing:
            fact_id, old, new = change
            self.counts[_kind(old, new)] += 1
            if fact_id > after:
                self.more = len(self.page) == size
                if not self.more:
                    self.page.append(change)


def _kind(old: Live | None, new: Live | None) -> Any:
    if old is None:
        return _KINDS.KIND_ADDED
    return _KINDS.KIND_REMOVED if new is None else _KINDS.KIND_CHANGED


async def within_bytes(
    page: Sequence[S], read: Callable[[Sequence[S]], Awaitable[Sequence[M]]]
) -> list[M]:
    """The messages of a page, read in parts, as far as PAGE_BYTES go; one at least."""
    messages: list[M] = []
    size = 0
    for start in range(0, len(page), FETCHED):
        for message in await read(page[start : start + FETCHED]):
            size += message.ByteSize()
            if messages and size > PAGE_BYTES:
                return messages
            messages.append(message)
    return messages


async def without_erased(read: Callable[[], Awaitable[Any]]) -> Any:
    """What a read gives; made again where a fact was erased between its state and its payloads."""
    while True:
        try:
            return await read()
        except DataLoss as error:
            if error.reason != "PAYLOAD_ERASED":
                raise


def tenant_of(request: Any) -> str:
    """Whose banks a request is about."""
    return request.context.tenant or "default"


def page_size(asked: int) -> int:
    """The size of a page. Raises: InvalidArgument."""
    if asked < 0 or asked > MAX_PAGE:
        raise InvalidArgument(f"page_size is {asked}, it must be 1 to {MAX_PAGE}", "BAD_PAGE_SIZE")
    return asked or DEFAULT_PAGE
