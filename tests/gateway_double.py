"""A gateway of a few dictionaries behind a real socket, for what a client must do about transport.

It keeps the contract's shapes and nothing of its algebra: congruence with the real
pipeline is tested elsewhere. Faults are queued by method name.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections import defaultdict, deque
from concurrent.futures import Future

import grpc

from larimar.errors import (
    Conflict,
    FailedPrecondition,
    InvalidArgument,
    LarimarError,
    NotFound,
    Unavailable,
)
from larimar.v1 import common_pb2, decoder_pb2, larimar_pb2, larimar_pb2_grpc, memory_pb2
from tests.bank_double import BankCallsDouble

MAX_MESSAGE_BYTES = 8 * 2**20
STATUS_CODES = {code.value[0]: code for code in grpc.StatusCode}


class GatewayDouble(BankCallsDouble, larimar_pb2_grpc.LarimarServicer):
    """One bank a name, facts and events in dictionaries; all state is open to the test."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: dict[str, list] = defaultdict(list)
        self.faults: dict[str, deque] = defaultdict(deque)
        self.banks: dict[str, dict] = {"default": {"facts": {}, "events": [], "bodies": {}}}
        self.gate = threading.Event()
        self.cancelled = threading.Event()
        self.answer = " Tarsin"
        self.matches = True
        self.write_many_dies_after: list[int] = []

    async def _begin(self, method: str, request, context) -> None:
        self.requests[method].append(request)
        if self.faults[method]:
            fault = self.faults[method].popleft()
            if isinstance(fault, LarimarError):
                await self._abort(context, fault)
            elif isinstance(fault, grpc.StatusCode):
                await context.abort(fault, "a status without a reason")
            else:
                await asyncio.sleep(fault)

    async def _abort(self, context, error: LarimarError) -> None:
        context.set_trailing_metadata((("larimar-reason", error.reason),))
        await context.abort(STATUS_CODES[error.code], error.message)

    async def _bank(self, name: str, context) -> dict:
        if (name or "default") not in self.banks:
            await self._abort(context, NotFound(f"no bank {name!r}", "UNKNOWN_BANK"))
        return self.banks[name or "default"]

    def _append(self, bank: dict, kind: int, name: str, request) -> dict:
        fact_id = request.fact_id or hashlib.sha256(request.prompt.encode()).hexdigest()[:16]
        result = {"fact_id": fact_id, "event_id": request.event_id, "bank": name or "default"}
        body = (kind, fact_id, getattr(request, "prompt", ""), getattr(request, "answer", ""))
        if request.event_id in bank["bodies"]:
            version, known = bank["bodies"][request.event_id]
            if known != body:
                raise Conflict(f"event id {request.event_id!r} belongs to another edit")
            return {**result, "version": version, "duplicate": True}
        if kind == common_pb2.EVENT_KIND_WRITE and not request.prompt:
            raise InvalidArgument("prompt is empty", "EMPTY_TEXT")
        if kind == common_pb2.EVENT_KIND_FORGET and fact_id not in bank["facts"]:
            forgotten = any(event.fact_id == fact_id for event in bank["events"])
            if forgotten:
                raise FailedPrecondition(f"{fact_id} is already forgotten", "ALREADY_FORGOTTEN")
            raise NotFound(f"no fact {fact_id!r}", "UNKNOWN_FACT")
        version = len(bank["events"]) + 1
        bank["events"].append(
            common_pb2.Event(
                version=version,
                kind=kind,
                fact_id=fact_id,
                event_id=request.event_id,
                time_ms=1_700_000_000_000 + version,
                chain=f"chain{version}",
            )
        )
        bank["bodies"][request.event_id] = (version, body)
        if kind == common_pb2.EVENT_KIND_WRITE:
            bank["facts"][fact_id] = common_pb2.Fact(
                fact_id=fact_id,
                prompt=request.prompt,
                answer=request.answer,
                rephrasings=request.rephrasings,
                version=version,
            )
        else:
            del bank["facts"][fact_id]
        return {**result, "version": version}

    async def Write(self, request, context):
        await self._begin("Write", request, context)
        bank = await self._bank(request.bank, context)
        try:
            result = self._append(bank, common_pb2.EVENT_KIND_WRITE, request.bank, request)
        except LarimarError as error:
            await self._abort(context, error)
        return larimar_pb2.WriteResponse(**result)

    async def WriteMany(self, request_iterator, context):
        dies_after = self.write_many_dies_after.pop(0) if self.write_many_dies_after else None
        self.requests["WriteMany"].append([])
        await self._begin("WriteManyStream", None, context)
        async for request in request_iterator:
            if dies_after == 0:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the gateway is going down")
            if dies_after is not None:
                dies_after -= 1
            write = request.write
            self.requests["WriteMany"][-1].append(write)
            bank = await self._bank(write.bank, context)
            status, result = common_pb2.Status(), {"event_id": write.event_id}
            try:
                if self.faults["WriteMany"]:
                    raise self.faults["WriteMany"].popleft()
                result = self._append(bank, common_pb2.EVENT_KIND_WRITE, write.bank, write)
            except LarimarError as error:
                status = common_pb2.Status(
                    code=error.code, reason=error.reason, message=error.message
                )
            yield larimar_pb2.WriteManyResponse(
                status=status, result=larimar_pb2.WriteResponse(**result)
            )

    async def Forget(self, request, context):
        await self._begin("Forget", request, context)
        bank = await self._bank(request.bank, context)
        try:
            result = self._append(bank, common_pb2.EVENT_KIND_FORGET, request.bank, request)
        except LarimarError as error:
            await self._abort(context, error)
        return larimar_pb2.ForgetResponse(**result)

    async def Ask(self, request, context):
        await self._begin("Ask", request, context)
        bank = await self._bank(request.bank, context)
        if request.min_version > len(bank["events"]):
            await self._abort(context, FailedPrecondition("not written yet", "VERSION_AHEAD"))
        try:
            for place, piece in enumerate(self.answer):
                yield larimar_pb2.AskResponse(text=piece)
                if place == 0 and self.faults["AskMidway"]:
                    fault = self.faults["AskMidway"].popleft()
                    if fault == "gate":
                        while not self.gate.is_set():
                            await asyncio.sleep(0.01)
                    else:
                        await context.abort(grpc.StatusCode.UNAVAILABLE, "the gateway went down")
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        yield larimar_pb2.AskResponse(
            provenance=self._provenance(request, bank), finish_reason="stop", tokens=7
        )

    def _provenance(self, request, bank: dict) -> larimar_pb2.Provenance:
        live = [f for f in bank["facts"].values() if f.prompt == request.prompt]
        in_scope = bool(live) and not request.no_memory
        return larimar_pb2.Provenance(
            in_scope=in_scope,
            scope_score=0.9 if in_scope else 0.1,
            fact_id=live[0].fact_id if in_scope else "",
            version=request.at_version or len(bank["events"]),
            bank=request.bank or "default",
            stale=request.allow_stale,
        )

    async def Score(self, request, context):
        await self._begin("Score", request, context)
        bank = await self._bank(request.bank, context)
        return larimar_pb2.ScoreResponse(
            scores=[
                decoder_pb2.CandidateScore(
                    token_logprobs=[-0.5, -float(len(text))], token_is_argmax=[True, False]
                )
                for text in request.candidates
            ],
            provenance=self._provenance(request, bank),
        )

    async def CreateBank(self, request, context):
        await self._begin("CreateBank", request, context)
        created = request.bank not in self.banks
        self.banks.setdefault(
            request.bank,
            {"facts": {}, "events": [], "bodies": {}, "addressing": request.addressing},
        )
        if self.banks[request.bank].get("addressing", 1) != request.addressing:
            await self._abort(context, Conflict(f"bank {request.bank!r} is configured otherwise"))
        return larimar_pb2.CreateBankResponse(info=self._info(request.bank), created=created)

    def _info(self, name: str) -> memory_pb2.BankInfo:
        bank = self.banks[name]
        return memory_pb2.BankInfo(
            config=common_pb2.BankConfig(
                bank=name,
                addressing=bank.get("addressing", common_pb2.ADDRESSING_SLOTS),
                prompt_size=384,
                config_digest="c0ffee",
            ),
            version=len(bank["events"]),
            facts=len(bank["facts"]),
            state_bytes=1234,
            erase_count=1,
            fill=0.25,
            origin=bank.get("origin"),
        )

    async def GetBank(self, request, context):
        await self._begin("GetBank", request, context)
        await self._bank(request.bank, context)
        return larimar_pb2.GetBankResponse(info=self._info(request.bank or "default"))

    async def ListBanks(self, request, context):
        await self._begin("ListBanks", request, context)
        return larimar_pb2.ListBanksResponse(banks=[self._info(n) for n in sorted(self.banks)])

    async def DeleteBank(self, request, context):
        await self._begin("DeleteBank", request, context)
        await self._bank(request.bank, context)
        del self.banks[request.bank]
        return larimar_pb2.DeleteBankResponse()

    async def ListFacts(self, request, context):
        await self._begin("ListFacts", request, context)
        bank = await self._bank(request.bank, context)
        wanted = [
            bank["facts"][fact_id]
            for fact_id in sorted(bank["facts"])
            if fact_id > request.after and request.fact_id in ("", fact_id)
        ]
        page = wanted[: request.page_size or 100]
        return larimar_pb2.ListFactsResponse(
            facts=page,
            version=len(bank["events"]),
            total=len(bank["facts"]),
            next_after=page[-1].fact_id if len(page) < len(wanted) else "",
        )

    async def ListEvents(self, request, context):
        await self._begin("ListEvents", request, context)
        bank = await self._bank(request.bank, context)
        after = request.after_version
        if request.fact_id:
            found = [e for e in reversed(bank["events"]) if e.fact_id == request.fact_id]
            return larimar_pb2.ListEventsResponse(events=found, version=len(bank["events"]))
        return larimar_pb2.ListEventsResponse(
            events=bank["events"][after : after + (request.page_size or 100)],
            version=len(bank["events"]),
        )

    async def Digest(self, request, context):
        await self._begin("Digest", request, context)
        bank = await self._bank(request.bank, context)
        return larimar_pb2.DigestResponse(
            bank=request.bank,
            version=request.at_version or len(bank["events"]),
            facts=len(bank["facts"]),
            digest="d1",
            erase_count=1,
        )

    async def Replay(self, request, context):
        await self._begin("Replay", request, context)
        bank = await self._bank(request.bank, context)
        count = len(bank["events"])
        return larimar_pb2.ReplayResponse(
            bank=request.bank,
            version=count,
            events=count,
            seconds=0.25,
            digest="d1",
            matches=self.matches,
            folded_sha256="f1",
        )

    async def Checkpoint(self, request, context):
        await self._begin("Checkpoint", request, context)
        bank = await self._bank(request.bank, context)
        return larimar_pb2.CheckpointResponse(
            bank=request.bank, version=len(bank["events"]), digest="d1", bytes=77
        )

    async def GetStatus(self, request, context):
        await self._begin("GetStatus", request, context)
        return larimar_pb2.GetStatusResponse(
            services=[
                larimar_pb2.ServiceInfo(name="encoder", ready=True, detail="larimar-small"),
                larimar_pb2.ServiceInfo(name="memory", ready=False, detail="starting"),
            ],
            model_digest="m1",
            encoder_digest="e1",
            scope_digest="s1",
            version="0.1.0",
        )


class DoubleServer:
    """The double on a port of this machine, in a thread with its own event loop."""

    def __init__(self, port: int = 0, gateway: GatewayDouble | None = None) -> None:
        self.gateway = gateway or GatewayDouble()
        self._asked_port = port
        self._port: Future[int] = Future()
        self._stop: asyncio.Event
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        self.port = self._port.result(timeout=120)
        self.target = f"127.0.0.1:{self.port}"

    async def _serve(self) -> None:
        server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ]
        )
        larimar_pb2_grpc.add_LarimarServicer_to_server(self.gateway, server)
        self._stop = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        try:
            port = server.add_insecure_port(f"127.0.0.1:{self._asked_port}")
            await server.start()
        except BaseException as error:
            self._port.set_exception(error)
            raise
        self._port.set_result(port)
        await self._stop.wait()
        await server.stop(grace=0)

    def stop(self) -> None:
        """Closes the socket and every call on it."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(timeout=120)


def store_down() -> Unavailable:
    """What the gateway answers while its store is away."""
    return Unavailable("the store does not answer", "STORE_DOWN")
