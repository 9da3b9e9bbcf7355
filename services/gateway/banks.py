"""Banks: made, listed, forked, merged, compared, exported, and what their logs hold."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
import uuid
from collections.abc import AsyncIterator, Callable

from larimar.defaults import DEFAULT_BANK
from larimar.errors import FailedPrecondition, InvalidArgument, ResourceExhausted, Unavailable
from larimar.v1 import common_pb2, larimar_pb2, memory_pb2, scope_pb2
from services.gateway.calls import LONG_DEADLINE_S, Calls, named_bank, together, unknown_bank
from services.gateway.tenancy import check_key_again
from services.limits import MAX_LOAD_BYTES, check_bank_name, check_id, check_version
from services.rpc import until

MAX_WATCHES = 32
"""Watches at once: each keeps a call to memory waiting, of the 64 that a replica works on."""
MAX_REPLAYS = 1
"""Replays at once of a gateway: each folds a whole bank anew, beside the state that serves."""
REPLAY_RETRY_S = 5.0
"""What a caller is told to wait who met another's replay: a bank of some size takes seconds."""
WATCH_WAIT_S = 10.0
"""How long one look at the log waits for an event."""
WATCH_PAGE = 100
"""Events of one look."""
WATCH_PAUSE_S = 0.05
"""Time between two looks when there was nothing."""


class BankCalls(Calls):
    """Everything about whole banks; edits and questions are elsewhere."""

    _watches = 0
    _replays = 0

    async def CreateBank(self, request, grpc_context):
        """Makes a bank."""
        context = self._context(grpc_context)
        bank = check_bank_name(request.bank or DEFAULT_BANK)
        created = await self._make_bank(bank, request.addressing, request.slots, context)
        described = await self._describe_bank(bank, context)
        return larimar_pb2.CreateBankResponse(info=described.info, created=created)

    async def GetBank(self, request, grpc_context):
        """A bank's configuration and size."""
        context = self._context(grpc_context)
        described = await self._describe_bank(named_bank(request.bank), context)
        return larimar_pb2.GetBankResponse(info=described.info)

    async def ListBanks(self, request, grpc_context):
        """All banks."""
        context = self._context(grpc_context)
        return larimar_pb2.ListBanksResponse(banks=await self._banks(context))

    async def DeleteBank(self, request, grpc_context):
        """Removes a bank and all it holds."""
        context = self._context(grpc_context)
        if not request.bank:
            raise InvalidArgument("delete needs the name of a bank", "EMPTY_ID")
        call = memory_pb2.DropBankRequest(bank=check_bank_name(request.bank), context=context)
        async with self.auditor.recorded(context.tenant, "delete bank", bank=request.bank):
            dropped = await self._call(lambda: self._memory.DropBank(call), context)
            if not dropped.existed:
                raise unknown_bank(request.bank)
        return larimar_pb2.DeleteBankResponse()

    async def ListFacts(self, request, grpc_context):
        """A page of live facts."""
        context = self._context(grpc_context)
        bank = named_bank(request.bank)
        call = memory_pb2.EnumerateFactsRequest(
            bank=bank,
            page_size=request.page_size,
            after=request.after,
            fact_id=request.fact_id,
            at_version=check_version("at_version", request.at_version),
            context=context,
        )
        self.admission.reads(context.tenant)
        page = await self._on_bank(bank, lambda: self._memory.EnumerateFacts(call), context)
        self.admission.owe_page(context.tenant, len(page.facts))
        return larimar_pb2.ListFactsResponse(
            facts=page.facts, version=page.version, total=page.total, next_after=page.next_after
        )

    async def ListEvents(self, request, grpc_context):
        """A page of the log, or every event of one fact."""
        context = self._context(grpc_context)
        bank = named_bank(request.bank)
        call = memory_pb2.EnumerateEventsRequest(
            bank=bank,
            after_version=request.after_version,
            page_size=request.page_size,
            fact_id=check_id("fact id", request.fact_id),
            context=context,
        )
        self.admission.reads(context.tenant)
        page = await self._on_bank(bank, lambda: self._memory.EnumerateEvents(call), context)
        self.admission.owe_page(context.tenant, len(page.events))
        return larimar_pb2.ListEventsResponse(events=page.events, version=page.version)

    async def Watch(self, request, grpc_context) -> AsyncIterator:
        """Entries of the log past a version, as they come, until the caller goes away.

        They come no faster than the tenant's rate of reads.
        """
        bank = named_bank(request.bank)
        after = check_version("after_version", request.after_version)
        if self._watches >= MAX_WATCHES:
            raise ResourceExhausted(
                f"{self._watches} watches at once are the most: share one, or retry later",
                "TOO_MANY_WATCHES",
            )
        self.admission.reads(self._context(grpc_context).tenant)
        self._watches += 1
        wait_s = 0.0  # at first, so that what is wrong is said at once
        try:
            while True:
                page = await self._look(bank, after, wait_s, grpc_context)
                wait_s = WATCH_WAIT_S
                if page.version < after:
                    raise FailedPrecondition(
                        f"bank {bank!r} has {page.version} events, version {after} is not written: "
                        "watch from 0 if the bank was made anew",
                        "VERSION_NOT_WRITTEN",
                    )
                for event in page.events:
                    yield larimar_pb2.WatchResponse(event=event)
                    after = event.version
                if not page.events:
                    await asyncio.sleep(WATCH_PAUSE_S)
        finally:
            self._watches -= 1

    def end_watches(self) -> None:
        """Ends every watch, which has no end of its own; its caller goes on at another gateway."""
        self._ending = True
        for look in self._looks:
            look.cancel()

    async def _look(self, bank: str, after: int, wait_s: float, grpc_context):
        look = asyncio.ensure_future(self._page_after(bank, after, wait_s, grpc_context))
        self._looks.add(look)
        if self._ending:
            look.cancel()
        try:
            return await look
        except asyncio.CancelledError:
            if not self._ending:
                raise
            raise Unavailable("the gateway stops: watch again", "SERVICE_DOWN") from None
        finally:
            look.cancel()
            self._looks.discard(look)

    async def _page_after(self, bank: str, after: int, wait_s: float, grpc_context):
        context = self._context(grpc_context)
        call = memory_pb2.EnumerateEventsRequest(
            bank=bank,
            after_version=after,
            page_size=WATCH_PAGE,
            wait_s=min(wait_s, max(0.0, context.deadline_unix_s - time.time()) / 2),
            context=context,
        )
        page = await self._on_bank(bank, lambda: self._memory.EnumerateEvents(call), context)
        await self.admission.turn(context.tenant, "read", len(page.events))
        await check_key_again()
        return page

    async def Digest(self, request, grpc_context):
        """The digest of a bank at a version."""
        context = self._context(grpc_context)
        bank = named_bank(request.bank)
        call = memory_pb2.ComputeDigestRequest(
            bank=bank, at_version=check_version("at_version", request.at_version), context=context
        )
        self.admission.reads(context.tenant)
        reply = await self._on_bank(bank, lambda: self._memory.ComputeDigest(call), context)
        return larimar_pb2.DigestResponse(
            bank=bank,
            version=reply.version,
            facts=reply.facts,
            digest=reply.digest,
            erase_count=reply.erase_count,
        )

    async def Replay(self, request, grpc_context):
        """Rebuilds memory and scope of a bank from the log alone and compares both."""
        context = self._context(grpc_context, LONG_DEADLINE_S)
        bank = named_bank(request.bank)
        memory = memory_pb2.RebuildBankRequest(bank=bank, context=context)
        scope = scope_pb2.RebuildScopeRequest(bank=bank, context=context)
        self.admission.reads(context.tenant)
        if self._replays >= MAX_REPLAYS:
            raise ResourceExhausted(
                f"a gateway replays {MAX_REPLAYS} bank at once, and another is being replayed: "
                "retry later",
                "TOO_MANY_REPLAYS",
                REPLAY_RETRY_S,
            )
        self._replays += 1
        try:
            rebuilt, index = await together(
                self._on_bank(bank, lambda: self._memory.RebuildBank(memory), context),
                self._on_bank(bank, lambda: self._scope.RebuildScope(scope), context),
            )
        finally:
            self._replays -= 1
        return larimar_pb2.ReplayResponse(
            bank=bank,
            version=rebuilt.version,
            events=rebuilt.events,
            seconds=rebuilt.seconds,
            digest=rebuilt.digest,
            matches=rebuilt.matches and index.matches,
            folded_sha256=rebuilt.folded_sha256,
        )

    async def Checkpoint(self, request, grpc_context):
        """Saves checkpoints of a bank, of memory and of scope."""
        context = self._context(grpc_context, LONG_DEADLINE_S)
        bank = named_bank(request.bank)
        memory = memory_pb2.SaveCheckpointRequest(bank=bank, context=context)
        scope = scope_pb2.SaveScopeRequest(bank=bank, context=context)
        self.admission.reads(context.tenant)
        saved, index = await together(
            self._on_bank(bank, lambda: self._memory.SaveCheckpoint(memory), context),
            self._on_bank(bank, lambda: self._scope.SaveScope(scope), context),
        )
        return larimar_pb2.CheckpointResponse(
            bank=bank,
            version=saved.version,
            digest=saved.digest,
            bytes=saved.bytes + index.bytes,
        )

    async def ForkBank(self, request, grpc_context):
        """Makes a bank that shares another's history up to a version."""
        context = self._context(grpc_context)
        bank = named_bank(request.bank)
        if not request.new_bank:
            raise InvalidArgument("a fork needs a name of its own", "EMPTY_ID")
        call = memory_pb2.BranchBankRequest(
            bank=bank,
            new_bank=check_bank_name(request.new_bank),
            at_version=check_version("at_version", request.at_version),
            context=context,
        )
        facts = 0
        if self._counts_facts(context):
            facts = await self._facts_at(bank, call.at_version, context)
        async with (
            self._room_for(call.new_bank, context, facts),
            self.auditor.recorded(
                context.tenant, "fork", bank=bank, new_bank=call.new_bank
            ) as entry,
        ):
            reply = await self._on_bank(bank, lambda: self._memory.BranchBank(call), context)
            entry["version"] = reply.info.version
        return larimar_pb2.ForkBankResponse(info=reply.info, created=reply.created)

    async def _facts_at(self, bank: str, version: int, context) -> int:
        """How many facts of a bank are live at a version; 0 is the newest."""
        call = memory_pb2.EnumerateFactsRequest(
            bank=bank, page_size=1, at_version=version, context=context
        )
        page = await self._on_bank(bank, lambda: self._memory.EnumerateFacts(call), context)
        return page.total

    async def MergeBank(self, request, grpc_context):
        """Applies to a bank what another of its family has changed since they parted."""
        context = self._context(grpc_context, LONG_DEADLINE_S)
        source, target = named_bank(request.source), named_bank(request.target)
        if source == target:
            raise InvalidArgument(f"bank {source!r} is both sides of the merge", "SAME_BANK")
        if request.policy not in common_pb2.MergePolicy.values():
            raise InvalidArgument(
                f"unknown merge policy {request.policy}: use fail, ours or theirs", "BAD_POLICY"
            )
        call = memory_pb2.CombineBanksRequest(
            source=source,
            target=target,
            policy=request.policy,
            merge_id=check_id("merge id", request.merge_id) or uuid.uuid4().hex,
            dry_run=request.dry_run,
            context=context,
        )
        facts = [(await self._describe_bank(bank, context)).info.facts for bank in (source, target)]
        if call.dry_run:
            reply = await self._call(lambda: self._memory.CombineBanks(call), context)
            return larimar_pb2.MergeBankResponse(merge=reply)
        self.admission.edits(context.tenant, 1)
        async with (
            self._room_for(target, context, await self._merged_facts(call, *facts)),
            self.auditor.recorded(
                context.tenant, "merge", bank=target, source=source, merge_id=call.merge_id
            ) as entry,
        ):
            reply = await self._call(lambda: self._memory.CombineBanks(call), context)
            entry |= {
                "version": reply.version,
                "written": reply.written,
                "forgotten": reply.forgotten,
            }
        self.admission.owe(context.tenant, "edit", reply.written + reply.forgotten)
        return larimar_pb2.MergeBankResponse(merge=reply)

    async def _merged_facts(
        self, call: memory_pb2.CombineBanksRequest, source: int, target: int
    ) -> int:
        """The most facts that the target of a merge has afterwards; 0 where nobody counts them.

        A look at what the merge would do is taken only where source and target together, the most
        that there can be, may be too many.
        """
        context = call.context
        if not self._counts_facts(context):
            return 0
        with contextlib.suppress(ResourceExhausted):
            async with self._room_for(call.target, context, source + target):
                return source + target
        look = memory_pb2.CombineBanksRequest()
        look.CopyFrom(call)
        look.dry_run = True
        found = await self._call(lambda: self._memory.CombineBanks(look), context)
        if not found.written:
            return 0  # it takes no room, also in a bank that is past its limit
        return target + max(0, found.written - found.forgotten)

    async def DiffBank(self, request, grpc_context):
        """A page of what differs between two states."""
        context = self._context(grpc_context, LONG_DEADLINE_S)
        bank, other = named_bank(request.bank), named_bank(request.to_bank or request.bank)
        call = memory_pb2.CompareVersionsRequest(
            bank=bank,
            from_version=check_version("from_version", request.from_version),
            to_version=check_version("to_version", request.to_version),
            to_bank=request.to_bank,
            page_size=request.page_size,
            after=request.after,
            context=context,
        )
        self.admission.reads(context.tenant)
        if other != bank:
            await self._describe_bank(other, context)
        reply = await self._on_bank(bank, lambda: self._memory.CompareVersions(call), context)
        self.admission.owe_page(context.tenant, len(reply.changes))
        return larimar_pb2.DiffBankResponse(diff=reply)

    async def ExportBank(self, request, grpc_context) -> AsyncIterator:
        """The whole log of a bank with its payloads, no faster than the tenant's rate of reads."""
        context = self._context(grpc_context, LONG_DEADLINE_S)
        bank = named_bank(request.bank)
        self.admission.reads(context.tenant)
        await self._describe_bank(bank, context)
        call = memory_pb2.DumpBankRequest(bank=bank, context=context)
        async with contextlib.aclosing(self._memory.DumpBank(call)) as replies:
            while True:
                async with until(context.deadline_unix_s):
                    reply = await anext(replies, None)
                    if reply is None:
                        return
                    await self.admission.turn(context.tenant, "read", len(reply.records))
                    await check_key_again()
                header = reply.header if reply.HasField("header") else None
                yield larimar_pb2.ExportBankResponse(header=header, records=reply.records)

    async def ImportBank(self, request_iterator, grpc_context):
        """Makes a bank of what ExportBank gave, a chunk of records at a time.

        They are taken no faster than the tenant's rate of imports. Its limits of facts are held to
        before the bank is visible: only the whole log says how many facts are live.
        """
        context = self._context(grpc_context, LONG_DEADLINE_S)
        async with contextlib.AsyncExitStack() as places:
            return await self._imported(request_iterator, context, places)

    async def _imported(self, request_iterator, context, places: contextlib.AsyncExitStack):
        live: set[str] | None = set() if self._counts_facts(context) else None
        header: common_pb2.ArchiveHeader | None = None
        chunk: list[common_pb2.ArchiveRecord] = []
        size, bank, source, sent, replaces = 0, "", "", False, None
        async for request in request_iterator:
            if header is None:
                if not request.HasField("header"):
                    raise InvalidArgument("an import begins with a header", "NO_HEADER")
                header = request.header
                bank = check_bank_name(request.header.config.bank)
                if request.HasField("replaces_version"):
                    replaces = request.replaces_version
                source = _source(request.header, replaces)
                self.admission.imports(context.tenant)
                await places.enter_async_context(self._room_for(bank, context))
            for record in request.records:
                if live is not None:
                    is_write = record.event.kind == common_pb2.EVENT_KIND_WRITE
                    (live.add if is_write else live.discard)(record.event.fact_id)
                if chunk and size + record.ByteSize() > MAX_LOAD_BYTES:
                    told = None if sent and replaces is None else header
                    await self._load(bank, told, chunk, False, source, replaces, context)
                    chunk, size, sent = [], 0, True
                chunk.append(record)
                size += record.ByteSize()
        if header is None:
            raise InvalidArgument("an import begins with a header", "NO_HEADER")
        if live is not None:
            facts = len(live.difference(header.erased_fact_ids))
            await places.enter_async_context(self._room_for(bank, context, facts))
        async with self.auditor.recorded(context.tenant, "import", bank=bank) as entry:
            loaded = await self._load(bank, header, chunk, True, source, replaces, context)
            entry |= {"version": loaded.info.version, "erased_again": loaded.erased_again}
            entry |= {} if replaces is None else {"replaces_version": replaces}
        return larimar_pb2.ImportBankResponse(
            info=loaded.info, digest=loaded.digest, erased_again=loaded.erased_again
        )

    async def _load(
        self, bank: str, header, records, last: bool, source: str, replaces: int | None, context
    ) -> memory_pb2.LoadBankResponse:
        call = memory_pb2.LoadBankRequest(
            bank=bank,
            header=header,
            records=records,
            last=last,
            source=source,
            replaces_version=replaces,
            context=context,
        )
        load: Callable = self._memory.LoadBank
        async with until(context.deadline_unix_s):
            await self.admission.turn(context.tenant, "import", len(records))
            await check_key_again()
        return await self._call(lambda: load(call), context)


def _source(header: common_pb2.ArchiveHeader, replaces: int | None) -> str:
    """By what the loaded part of an archive is known: only the same one goes on where it stopped.

    An older archive of the log would keep what was erased since, a newer one end too late.
    """
    digest = hashlib.sha256(header.SerializeToString(deterministic=True)).hexdigest()
    return digest if replaces is None else f"replaces {digest}"
