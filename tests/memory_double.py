"""A memory and a scope service of a few lists behind real sockets, for what the gateway does.

They keep the contract's shapes and nothing of its algebra. All state is open to the test.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

from larimar.errors import LarimarError, NotFound
from larimar.v1 import (
    common_pb2,
    encoder_pb2,
    encoder_pb2_grpc,
    memory_pb2,
    memory_pb2_grpc,
    scope_pb2,
    scope_pb2_grpc,
)
from services.contracts import channel_stub
from services.gateway.service import GatewayService
from tests.in_process import served


class _Noted:
    def __init__(self) -> None:
        self.requests: dict[str, list] = defaultdict(list)
        self.faults: dict[str, list[LarimarError]] = defaultdict(list)

    def note(self, method: str, request: Any) -> None:
        """Keeps a copy of the request; raises the next fault of the method."""
        copy = type(request)()
        copy.CopyFrom(request)
        copy.ClearField("context")
        self.requests[method].append(copy)
        if self.faults[method]:
            raise self.faults[method].pop(0)


class MemoryDouble(_Noted, memory_pb2_grpc.MemoryServicer):
    """Banks by name, each a list of events."""

    def __init__(self) -> None:
        super().__init__()
        self.banks: dict[str, list[common_pb2.Event]] = {"kept": []}
        self.replies: dict[str, list] = defaultdict(list)
        self.loaded: list[common_pb2.ArchiveRecord] = []
        self.dump: list[memory_pb2.DumpBankResponse] = []
        self.appended = asyncio.Event()

    def event(self, bank: str) -> common_pb2.Event:
        """Appends an event."""
        events = self.banks[bank]
        events.append(common_pb2.Event(version=len(events) + 1, event_id=f"e{len(events) + 1}"))
        self.appended.set()
        return events[-1]

    def _bank(self, name: str) -> list[common_pb2.Event]:
        if name not in self.banks:
            raise NotFound(f"no bank {name!r}", "UNKNOWN_BANK")
        return self.banks[name]

    async def MakeBank(self, request, grpc_context):
        self.note("MakeBank", request)
        created = request.config.bank not in self.banks
        self.banks.setdefault(request.config.bank, [])
        return memory_pb2.MakeBankResponse(config=request.config, created=created)

    async def DescribeBank(self, request, grpc_context):
        self.note("DescribeBank", request)
        return memory_pb2.DescribeBankResponse(
            info=memory_pb2.BankInfo(version=len(self._bank(request.bank)))
        )

    async def Append(self, request, grpc_context):
        self.note("Append", request)
        self._bank(request.bank)
        results = []
        for item in request.items:
            result = memory_pb2.AppendResult(event_id=item.event_id, fact_id=item.fact_id)
            if item.fact_id == "refused":
                result.status.CopyFrom(common_pb2.Status(code=9, reason="NO", message="refused"))
            else:
                result.version = self.event(request.bank).version
            results.append(result)
        return memory_pb2.AppendResponse(results=results)

    async def EnumerateEvents(self, request, grpc_context):
        self.note("EnumerateEvents", request)
        events = self._bank(request.bank)
        if len(events) <= request.after_version and request.wait_s:
            self.appended.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.appended.wait(), request.wait_s)
        page = events[request.after_version :][: request.page_size or 100]
        return memory_pb2.EnumerateEventsResponse(events=page, version=len(events))

    async def LoadBank(self, request, grpc_context):
        self.note("LoadBank", request)
        self.loaded += request.records
        if not request.last:
            return memory_pb2.LoadBankResponse()
        return memory_pb2.LoadBankResponse(
            info=memory_pb2.BankInfo(config=request.header.config, version=len(self.loaded)),
            digest=request.header.digest,
            erased_again=2,
        )

    async def DumpBank(self, request, grpc_context):
        self.note("DumpBank", request)
        for reply in self.dump:
            yield reply

    async def _canned(self, method: str, request, bank: str):
        self.note(method, request)
        self._bank(bank)
        return self.replies[method].pop(0)

    async def Read(self, request, grpc_context):
        return await self._canned("Read", request, request.bank)

    async def EnumerateFacts(self, request, grpc_context):
        return await self._canned("EnumerateFacts", request, request.bank)

    async def ComputeDigest(self, request, grpc_context):
        return await self._canned("ComputeDigest", request, request.bank)

    async def RebuildBank(self, request, grpc_context):
        return await self._canned("RebuildBank", request, request.bank)

    async def SaveCheckpoint(self, request, grpc_context):
        return await self._canned("SaveCheckpoint", request, request.bank)

    async def EraseFacts(self, request, grpc_context):
        return await self._canned("EraseFacts", request, request.bank)

    async def DescribeErase(self, request, grpc_context):
        return await self._canned("DescribeErase", request, request.bank)

    async def BranchBank(self, request, grpc_context):
        return await self._canned("BranchBank", request, request.bank)

    async def CombineBanks(self, request, grpc_context):
        return await self._canned("CombineBanks", request, request.source)

    async def CompareVersions(self, request, grpc_context):
        return await self._canned("CompareVersions", request, request.bank)


class ScopeDouble(_Noted, scope_pb2_grpc.ScopeServicer):
    """Says what it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.replies: dict[str, list] = defaultdict(list)
        self.digest = "scope one"

    async def Embed(self, request, grpc_context):
        self.note("Embed", request)
        return scope_pb2.EmbedResponse(
            embeddings=[b"s" * 8 for _ in request.texts], scope_digest=self.digest
        )

    async def Detect(self, request, grpc_context):
        self.note("Detect", request)
        return self.replies["Detect"].pop(0)

    async def FindFacts(self, request, grpc_context):
        self.note("FindFacts", request)
        return scope_pb2.FindFactsResponse(found=[scope_pb2.FoundFacts() for _ in request.texts])

    async def RebuildScope(self, request, grpc_context):
        self.note("RebuildScope", request)
        return self.replies["RebuildScope"].pop(0)

    async def SaveScope(self, request, grpc_context):
        self.note("SaveScope", request)
        return scope_pb2.SaveScopeResponse(version=3, digest="d", bytes=20)

    async def DescribeScope(self, request, grpc_context):
        self.note("DescribeScope", request)
        return scope_pb2.DescribeScopeResponse(
            scope_digest=self.digest, scope_size=2, scope_bits=16
        )


class EncoderDouble(_Noted, encoder_pb2_grpc.EncoderServicer):
    """Latents of nothing, under a digest."""

    def __init__(self) -> None:
        super().__init__()
        self.digest = "encoder one"

    async def Encode(self, request, grpc_context):
        self.note("Encode", request)
        return encoder_pb2.EncodeResponse(
            latents=[
                encoder_pb2.Latents(prompt_latent=b"p" * 8, value=b"v" * 8 if i.with_value else b"")
                for i in request.items
            ],
            encoder_digest=self.digest,
        )

    async def DescribeEncoder(self, request, grpc_context):
        self.note("DescribeEncoder", request)
        return encoder_pb2.DescribeEncoderResponse(
            encoder_digest=self.digest, prompt_size=2, value_size=2, prompt_bits=16, value_bits=16
        )


class Doubles:
    """A real gateway over doubles behind sockets; nothing decodes."""

    def __init__(self) -> None:
        self.memory, self.scope, self.encoder = MemoryDouble(), ScopeDouble(), EncoderDouble()
        self.service: GatewayService

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[Doubles]:
        """With its sockets open."""
        async with contextlib.AsyncExitStack() as stack:
            doors = {}
            for name in ("memory", "scope", "encoder"):
                address = await stack.enter_async_context(served(name, getattr(self, name)))
                doors[name] = channel_stub(name, address)
            self.service = GatewayService(**doors, decoder=None)
            yield self
