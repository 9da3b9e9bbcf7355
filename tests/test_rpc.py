"""Sockets: errors to statuses and back, retries, deadlines, limits, health and reflection.

Every test runs on a real grpc.aio server; the servicers behind it do what the test says.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from larimar import errors
from larimar.calls import CANCELLED_HERE, Budget, to_error
from larimar.errors import (
    Cancelled,
    Conflict,
    DeadlineExceeded,
    LarimarError,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from larimar.v1 import (
    decoder_pb2,
    decoder_pb2_grpc,
    encoder_pb2,
    encoder_pb2_grpc,
    larimar_pb2,
    larimar_pb2_grpc,
)
from services import rpc
from services.contracts import add_servicer, channel_stub
from services.rpc import (
    MAX_CONCURRENT_RPCS,
    MAX_MESSAGE_BYTES,
    REASON_KEY,
    retried,
    start_server,
    status_error,
)
from tests.command_line import free_port
from tests.in_process import served

DOMAIN = [cls(f"what went wrong with {cls.__name__}", "A_REASON") for cls in errors._CLASSES]
SECRET = "postgres://user:hunter2@10.0.0.7"
UNEXPECTED = [KeyError(SECRET), RuntimeError(SECRET), AssertionError(SECRET), OSError(SECRET)]


class Scripted(
    encoder_pb2_grpc.EncoderServicer,
    decoder_pb2_grpc.DecoderServicer,
    larimar_pb2_grpc.LarimarServicer,
):
    """A method of each shape: sends pieces, then raises, or waits until it is cancelled."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.pieces = 0
        self.waits = False
        self.started = 0
        self.cancelled = asyncio.Event()

    async def _act(self) -> None:
        self.started += 1
        try:
            while self.waits:
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if self.error is not None:
            raise self.error

    async def Encode(self, request, grpc_context):
        await self._act()
        return encoder_pb2.EncodeResponse(encoder_digest=f"{len(request.items)} texts")

    async def Generate(self, request, grpc_context):
        for place in range(self.pieces):
            yield decoder_pb2.GenerateResponse(text=str(place))
        await self._act()

    async def WriteMany(self, request_iterator, grpc_context):
        async for request in request_iterator:
            yield larimar_pb2.WriteManyResponse(
                result=larimar_pb2.WriteResponse(fact_id=request.write.fact_id)
            )
        await self._act()

    async def count(self, request_iterator, grpc_context):
        """Streams in, one reply out: no contract has this shape yet."""
        count = 0
        async for _ in request_iterator:
            count += 1
        await self._act()
        return encoder_pb2.EncodeResponse(encoder_digest=str(count))


@pytest.fixture
def servicer() -> Scripted:
    return Scripted()


@pytest.fixture
async def address(servicer: Scripted):
    """One server with a method of every shape."""

    def add(server: grpc.aio.Server) -> list[str]:
        names = [
            name
            for service in ("encoder", "decoder", "gateway")
            for name in add_servicer(service, servicer)(server)
        ]
        count = grpc.stream_unary_rpc_method_handler(
            servicer.count,
            request_deserializer=encoder_pb2.EncodeRequest.FromString,
            response_serializer=encoder_pb2.EncodeResponse.SerializeToString,
        )
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("test.Counter", {"Count": count}),)
        )
        return names

    server, port = await start_server("127.0.0.1:0", add)
    yield f"127.0.0.1:{port}"
    await server.stop(grace=0)


@pytest.fixture
async def channel(address: str):
    async with grpc.aio.insecure_channel(address) as channel:
        yield channel


async def unary_unary(channel):
    await encoder_pb2_grpc.EncoderStub(channel).Encode(encoder_pb2.EncodeRequest())


async def unary_stream(channel):
    async for _ in decoder_pb2_grpc.DecoderStub(channel).Generate(decoder_pb2.GenerateRequest()):
        pass


async def stream_stream(channel):
    requests = iter([larimar_pb2.WriteManyRequest()])
    async for _ in larimar_pb2_grpc.LarimarStub(channel).WriteMany(requests):
        pass


async def stream_unary(channel):
    count = channel.stream_unary(
        "/test.Counter/Count",
        request_serializer=encoder_pb2.EncodeRequest.SerializeToString,
        response_deserializer=encoder_pb2.EncodeResponse.FromString,
    )
    reply = await count(iter([encoder_pb2.EncodeRequest()] * 3))
    assert reply.encoder_digest == "3"


SHAPES = [unary_unary, unary_stream, stream_stream, stream_unary]


async def failure(call) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def reason_of(error: grpc.aio.AioRpcError) -> str | None:
    return dict(error.trailing_metadata() or ()).get(REASON_KEY)


@pytest.mark.parametrize("shape", SHAPES)
async def test_calls_of_every_shape_pass_through(channel, shape) -> None:
    await shape(channel)


@pytest.mark.parametrize("error", DOMAIN, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("shape", SHAPES)
async def test_a_domain_error_is_its_status(channel, servicer, shape, error) -> None:
    servicer.error = error
    got = await failure(shape(channel))
    assert got.code().value[0] == error.code
    assert (got.details(), reason_of(got)) == (error.message, "A_REASON")


def test_every_error_class_has_a_code_of_its_own() -> None:
    classes = [type(error) for error in DOMAIN]
    assert len({cls.code for cls in classes}) == len(classes) == len(errors.BY_CODE)
    assert {cls.__name__ for cls in classes} | {"LarimarError"} == {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, LarimarError)
    }


@pytest.mark.parametrize("error", UNEXPECTED, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("shape", SHAPES)
async def test_an_unexpected_failure_shows_nothing_of_the_inside(
    channel, servicer, shape, error, caplog
) -> None:
    servicer.error = error
    got = await failure(shape(channel))
    assert got.code() == grpc.StatusCode.INTERNAL and reason_of(got) == "INTERNAL"
    shown = f"{got.details()} {got.trailing_metadata()} {got.debug_error_string()}"
    assert SECRET not in shown and "Traceback" not in shown
    assert type(error).__name__ in got.details()
    assert SECRET in caplog.text, "the service's log has it"


async def test_a_timeout_is_a_deadline(channel, servicer) -> None:
    servicer.error = TimeoutError()
    got = await failure(unary_unary(channel))
    assert got.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert reason_of(got) == "DEADLINE_EXCEEDED"


async def test_what_was_sent_before_an_error_arrives(channel, servicer) -> None:
    servicer.pieces, servicer.error = 2, NotFound("no such bank", "UNKNOWN_BANK")
    texts = []
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        stub = decoder_pb2_grpc.DecoderStub(channel)
        async for reply in stub.Generate(decoder_pb2.GenerateRequest()):
            texts.append(reply.text)
    assert texts == ["0", "1"] and reason_of(caught.value) == "UNKNOWN_BANK"


@pytest.mark.parametrize("error", DOMAIN, ids=lambda error: type(error).__name__)
async def test_a_channel_stub_raises_what_the_servicer_raised(address, servicer, error) -> None:
    servicer.error, servicer.pieces = error, 1
    with pytest.raises(LarimarError) as caught:
        await channel_stub("encoder", address).Encode(encoder_pb2.EncodeRequest())
    streamed = []
    with pytest.raises(LarimarError) as from_stream:
        async for reply in channel_stub("decoder", address).Generate(decoder_pb2.GenerateRequest()):
            streamed.append(reply.text)
    assert streamed == ["0"]
    for got in (caught.value, from_stream.value):
        assert type(got) is type(error)
        assert (got.message, got.reason) == (error.message, error.reason)


async def test_a_service_that_is_away_is_unavailable() -> None:
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(Unavailable, match="the encoder service does not answer") as caught:
        await channel_stub("encoder", address).Encode(encoder_pb2.EncodeRequest())
    assert caught.value.reason == "SERVICE_DOWN"
    with pytest.raises(Unavailable):
        async for _ in channel_stub("decoder", address).Generate(decoder_pb2.GenerateRequest()):
            pass


def test_a_call_that_its_stopping_server_dropped_is_unavailable() -> None:
    """HTTP/2 says CANCEL then, without a status: here nobody cancelled anything."""
    none = grpc.aio.Metadata()
    dropped = grpc.aio.AioRpcError(grpc.StatusCode.CANCELLED, none, none, "")
    inside = status_error(dropped, "encoder")
    assert isinstance(inside, Unavailable) and inside.reason == "SERVICE_DOWN"
    outside = to_error(dropped, "localhost:9000", Budget(1.0), "event")
    assert isinstance(outside, Unavailable) and "lost the connection" in outside.message
    here = grpc.aio.AioRpcError(grpc.StatusCode.CANCELLED, none, none, CANCELLED_HERE)
    assert isinstance(to_error(here, "localhost:9000", Budget(1.0)), Cancelled)
    said = grpc.aio.Metadata((REASON_KEY, "CANCELLED"))
    told = grpc.aio.AioRpcError(grpc.StatusCode.CANCELLED, none, said, "the caller went away")
    assert isinstance(status_error(told, "encoder"), Cancelled)


async def test_a_method_that_the_service_lacks_is_an_error_of_no_class(address) -> None:
    with pytest.raises(LarimarError) as caught:
        await channel_stub("encoder", address).DescribeEncoder(encoder_pb2.DescribeEncoderRequest())
    assert type(caught.value) is LarimarError


async def test_a_caller_who_cancels_ends_the_servicers_call(channel, servicer, caplog) -> None:
    servicer.waits = True
    for shape in SHAPES:
        servicer.cancelled.clear()
        with caplog.at_level(logging.WARNING):
            call = asyncio.create_task(shape(channel))
            started = servicer.started
            async with asyncio.timeout(120):
                while servicer.started == started:
                    await asyncio.sleep(0.01)
            call.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await call
            await asyncio.wait_for(servicer.cancelled.wait(), 120)
    await asyncio.sleep(0.05)
    assert "unexpected failure" not in caplog.text
    servicer.waits = False
    await unary_unary(channel)


async def test_the_deadline_in_a_request_is_the_deadline_of_its_call(address, servicer) -> None:
    door = channel_stub("encoder", address)
    await door.Encode(encoder_pb2.EncodeRequest())  # it is connected
    servicer.waits = True
    started = time.monotonic()
    request = encoder_pb2.EncodeRequest()
    request.context.deadline_unix_s = time.time() + 1.0
    with pytest.raises(DeadlineExceeded):
        await door.Encode(request)
    assert time.monotonic() - started > 0.9
    await asyncio.wait_for(servicer.cancelled.wait(), 120)
    stream = decoder_pb2.GenerateRequest()
    stream.context.deadline_unix_s = time.time() + 0.3
    with pytest.raises(DeadlineExceeded):
        async for _ in channel_stub("decoder", address).Generate(stream):
            pass


async def test_a_block_ends_at_its_deadline() -> None:
    with pytest.raises(DeadlineExceeded, match="retry"):
        async with rpc.until(time.time() + 0.05):
            await asyncio.sleep(60)
    with pytest.raises(DeadlineExceeded):
        async with rpc.until(time.time() - 1):
            await asyncio.sleep(60)
    with pytest.raises(Conflict):
        async with rpc.until(time.time() + 60):
            raise Conflict("taken")


def texts_of(size: int) -> encoder_pb2.EncodeRequest:
    return encoder_pb2.EncodeRequest(items=[encoder_pb2.EncodeItem(prompt="x" * size)])


async def test_a_message_may_be_as_large_as_the_limit_and_no_larger(address, channel) -> None:
    door = channel_stub("encoder", address)
    reply = await door.Encode(texts_of(MAX_MESSAGE_BYTES - 64))
    assert reply.encoder_digest == "1 texts"
    with pytest.raises(ResourceExhausted):
        await door.Encode(texts_of(MAX_MESSAGE_BYTES))
    unlimited = encoder_pb2_grpc.EncoderStub(channel).Encode
    got = await failure(unlimited(texts_of(MAX_MESSAGE_BYTES)))
    assert got.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, "the server has the limit too"
    assert (await door.Encode(texts_of(1))).encoder_digest == "1 texts"


async def test_one_call_more_than_a_server_takes_is_refused(channel, servicer) -> None:
    servicer.waits = True
    calls = [asyncio.create_task(unary_unary(channel)) for _ in range(MAX_CONCURRENT_RPCS + 5)]
    refused = set()
    async with asyncio.timeout(180):
        while len(refused) < 5:
            done, _ = await asyncio.wait(
                [call for call in calls if call not in refused],
                return_when=asyncio.FIRST_COMPLETED,
            )
            refused |= done
    for call in refused:
        assert call.exception().code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    servicer.waits = False
    await asyncio.gather(*(call for call in calls if call not in refused))
    assert servicer.started == MAX_CONCURRENT_RPCS


async def test_a_port_in_use_is_named(servicer) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(Unavailable, match=f"cannot listen on {address}") as caught:
            await start_server(address, add_servicer("encoder", servicer))
    assert caught.value.reason == "PORT_IN_USE"


async def test_health_answers_for_the_server_and_each_service(channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    for name in ("", "larimar.v1.Encoder", "larimar.v1.Decoder", "larimar.v1.Larimar"):
        request = health_pb2.HealthCheckRequest(service=name)
        reply = await stub.Check(request)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
        got = await failure(stub.Watch(request).read())
        assert got.code() == grpc.StatusCode.UNIMPLEMENTED
    got = await failure(stub.Check(health_pb2.HealthCheckRequest(service="larimar.v1.Unknown")))
    assert got.code() == grpc.StatusCode.NOT_FOUND


async def test_reflection_lists_the_services_and_their_files(channel) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="larimar.v1.Larimar"),
    ]
    listed, file = [reply async for reply in stub.ServerReflectionInfo(iter(requests))]
    names = {service.name for service in listed.list_services_response.service}
    assert names == {
        "larimar.v1.Encoder",
        "larimar.v1.Decoder",
        "larimar.v1.Larimar",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    assert any(
        b"larimar/v1/larimar.proto" in one
        for one in file.file_descriptor_response.file_descriptor_proto
    )


class Failing:
    """A call that raises errors in turn, then answers."""

    def __init__(self, *raised: LarimarError) -> None:
        self.raised = list(raised)
        self.calls = 0

    async def __call__(self) -> str:
        self.calls += 1
        if self.raised:
            raise self.raised.pop(0)
        return "answer"


@pytest.fixture
def short_pauses(monkeypatch) -> None:
    monkeypatch.setattr(rpc, "RETRY_PAUSES_S", (0.001, 0.002, 0.003))


@pytest.mark.parametrize("reason", ["SERVICE_DOWN", "STORE_DOWN"])
async def test_a_call_is_made_again_while_its_service_is_down(short_pauses, reason: str) -> None:
    call = Failing(*[Unavailable("down", reason)] * 3)
    assert await retried(call, 0.0) == "answer" and call.calls == 4
    call = Failing(*[Unavailable("down", reason)] * 4)
    with pytest.raises(Unavailable):
        await retried(call, 0.0)
    assert call.calls == 4


@pytest.mark.parametrize(
    "error",
    [
        Unavailable("the bank is written to faster than it replays", "BUSY"),
        Unavailable("cannot listen", "PORT_IN_USE"),
        ResourceExhausted("the queue is full"),
        DeadlineExceeded("too late"),
        Cancelled("gone"),
        Conflict("taken"),
        LarimarError("unexpected"),
    ],
    ids=lambda error: error.reason,
)
async def test_any_other_error_is_an_answer(short_pauses, error: LarimarError) -> None:
    call = Failing(error)
    with pytest.raises(type(error)) as caught:
        await retried(call, 0.0)
    assert caught.value is error and call.calls == 1


async def test_a_call_is_not_made_again_past_its_deadline(monkeypatch) -> None:
    monkeypatch.setattr(rpc, "RETRY_PAUSES_S", (0.01, 30.0))
    call = Failing(*[Unavailable("down", "SERVICE_DOWN")] * 3)
    started = time.monotonic()
    with pytest.raises(Unavailable):
        await retried(call, time.time() + 25)
    assert call.calls == 2 and time.monotonic() - started < 20


async def test_a_service_that_comes_back_answers_a_call_that_waited(servicer) -> None:
    """The whole of it, at a real port: refused, tried again, answered."""
    address = f"127.0.0.1:{free_port()}"
    door = channel_stub("encoder", address)
    call = asyncio.create_task(retried(lambda: door.Encode(texts_of(1)), time.time() + 60))
    await asyncio.sleep(0.2)
    assert not call.done()
    server, _ = await start_server(address, add_servicer("encoder", servicer))
    assert (await call).encoder_digest == "1 texts"
    await server.stop(grace=0)


async def test_each_service_is_served_alone_with_its_name(servicer) -> None:
    async with (
        served("encoder", servicer) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        reply = await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service="larimar.v1.Encoder")
        )
    assert reply.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_caller_who_vanished_holds_no_stream(monkeypatch) -> None:
    """Behind a wire that stays open and carries nothing, once the stream has long been quiet."""
    short = {"grpc.keepalive_time_ms": 100, "grpc.http2.ping_timeout_ms": 5000}
    limits = tuple((name, short.get(name, value)) for name, value in rpc.SERVER_LIMITS)
    monkeypatch.setattr(rpc, "SERVER_LIMITS", limits)
    ended, carries = asyncio.Event(), asyncio.Event()
    carries.set()

    async def quiet(request: bytes, context):
        try:
            yield b"begun"
            await asyncio.Event().wait()
        finally:
            ended.set()

    def add(server: grpc.aio.Server) -> list[str]:
        handlers = {"Watch": grpc.unary_stream_rpc_method_handler(quiet)}
        generic = grpc.method_handlers_generic_handler("test.Quiet", handlers)
        server.add_generic_rpc_handlers((generic,))
        return []

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await carries.wait()
            writer.write(data)

    async def joined(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await asyncio.gather(carry(reader, far_writer), carry(far_reader, writer))

    server, port = await start_server("127.0.0.1:0", add)
    wire = await asyncio.start_server(joined, "127.0.0.1", 0)
    address = f"127.0.0.1:{wire.sockets[0].getsockname()[1]}"
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_stream("/test.Quiet/Watch")(b"")
        assert await call.read() == b"begun"
        await asyncio.sleep(1.0)
        assert not ended.is_set(), "who answers is left alone"
        carries.clear()
        await asyncio.wait_for(ended.wait(), 40)  # less than grpc's own minute
        carries.set()
    wire.close()
    await server.stop(grace=0)
