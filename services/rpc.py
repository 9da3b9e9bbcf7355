"""Sockets and doors: how an error becomes a status and back, and three stubs of one shape.

A service is called through a door: the object itself, a gRPC channel, or (in
services/app.py) a Ray handle. All take a request and return a reply or an async
iterator of replies, and all raise the errors of larimar.errors.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from larimar.errors import Cancelled, DeadlineExceeded, LarimarError, Unavailable, from_code
from services.observability.calls import calling
from services.observability.logs import get_logger

log = get_logger("larimar.rpc")

MAX_MESSAGE_BYTES = 8 * 2**20
"""Largest message on any socket: a batch of 256 facts with their vectors takes under 4 MiB."""
REASON_KEY = "larimar-reason"
"""Trailing metadata that carries an error's reason."""
RETRY_AFTER_KEY = "larimar-retry-after-ms"
"""Trailing metadata that says after how many milliseconds a refused call may succeed."""
MAX_CONCURRENT_RPCS = 256
"""Calls in progress at one server; one more is RESOURCE_EXHAUSTED."""
MAX_STREAMS = 1024
"""Calls in progress on one connection: above MAX_CONCURRENT_RPCS, so that one more than the server
takes is refused by name, and does not wait at the connection."""
MAX_METADATA_BYTES = 16 * 1024
"""Metadata of one call: ours is an API key and a trace context, a few hundred bytes."""
HEADER_TABLE_BYTES = 4096
"""What a connection may make the server remember to compress its headers: HTTP/2's default."""
MIN_PING_INTERVAL_MS = 10_000
"""Time between a client's pings; one that pings faster is sent away."""
KEEPALIVE_MS = 60_000
"""After which a silent connection is asked whether somebody is there: a watcher that vanished
would keep its place for as long as TCP does."""
KEEPALIVE_TIMEOUT_MS = 20_000
"""For which the answer is waited; then the connection's calls end."""
SERVER_LIMITS = (
    ("grpc.max_concurrent_streams", MAX_STREAMS),
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.http2.hpack_table_size.decoder", HEADER_TABLE_BYTES),
    ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_INTERVAL_MS),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    # What grpc 1.85 goes by; a minute, where it is not set.
    ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),
)
"""What holds for a connection before anything is allocated for a call."""
CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


def domain_error(error: BaseException) -> LarimarError:
    """What a caller may see of an exception: domain errors as they are, all else without detail."""
    if isinstance(error, LarimarError):
        return error
    if isinstance(error, asyncio.CancelledError):
        return Cancelled("the caller went away")
    if isinstance(error, TimeoutError):
        return _late()
    log.error("unexpected failure", exc_info=error)
    return LarimarError(f"unexpected {type(error).__name__}: see the service's log")


class StatusInterceptor(grpc.aio.ServerInterceptor):
    """Turns errors that servicers raise into gRPC statuses, at the socket."""

    async def intercept_service(self, continuation, handler_call_details):
        """Wraps the handler of the call."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        streams_in, streams_out = handler.request_streaming, handler.response_streaming
        if streams_out:
            inner: Any = handler.stream_stream if streams_in else handler.unary_stream

            async def streaming(request, context):
                try:
                    async with contextlib.aclosing(inner(request, context)) as replies:
                        async for reply in replies:
                            yield reply
                except (Exception, asyncio.CancelledError) as error:
                    await _abort(context, error)

            make = (
                grpc.stream_stream_rpc_method_handler
                if streams_in
                else grpc.unary_stream_rpc_method_handler
            )
            return make(streaming, handler.request_deserializer, handler.response_serializer)

        inner: Any = handler.stream_unary if streams_in else handler.unary_unary

        async def single(request, context):
            try:
                return await inner(request, context)
            except (Exception, asyncio.CancelledError) as error:
                await _abort(context, error)

        make = (
            grpc.stream_unary_rpc_method_handler
            if streams_in
            else grpc.unary_unary_rpc_method_handler
        )
        return make(single, handler.request_deserializer, handler.response_serializer)


async def _abort(context, error: BaseException) -> None:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    shown = domain_error(error)
    trailing = [(REASON_KEY, shown.reason)]
    if shown.retry_after_s is not None:
        trailing.append((RETRY_AFTER_KEY, str(math.ceil(1000 * shown.retry_after_s))))
    context.set_trailing_metadata(tuple(trailing))
    codes = {code.value[0]: code for code in grpc.StatusCode}
    await context.abort(codes[shown.code], shown.message)


class HealthChecks(health.aio.HealthServicer):
    """The standard health service without Watch, whose stream has no end and would hold a call.

    UNIMPLEMENTED is what the protocol has for that: a client that would watch takes the server to
    be well.
    """

    async def Watch(self, request, context):
        """Refuses."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "call Check, as often as needed")
        yield  # makes it a generator, as the handler of a stream is


async def start_server(
    address: str,
    add_servicers: Callable[[grpc.aio.Server], list[str]],
    credentials: grpc.ServerCredentials | None = None,
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
    share_port: bool = False,
) -> tuple[grpc.aio.Server, int]:
    """A running grpc.aio server with health and reflection; returns it and its port.

    Args:
        address: host:port, where port 0 takes a free one, or unix:PATH.
        add_servicers: adds servicers to the server and returns the services' full names.
        credentials: of TLS; None serves in plain text.
        interceptors: see every call first; what they raise becomes a status too.
        share_port: lets other servers of this user listen there too, as replicas do.

    Raises:
        Unavailable: the port is in use.
    """
    server = grpc.aio.server(
        interceptors=[StatusInterceptor(), *interceptors],
        options=[*CHANNEL_OPTIONS[:2], *SERVER_LIMITS, ("grpc.so_reuseport", int(share_port))],
        maximum_concurrent_rpcs=MAX_CONCURRENT_RPCS,
    )
    names = add_servicers(server)
    checks = HealthChecks()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    reflection.enable_server_reflection(
        [*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server
    )
    try:
        if credentials is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise Unavailable(
            f"cannot listen on {address}: is the port in use?", "PORT_IN_USE"
        ) from error
    await server.start()
    for name in ["", *names]:
        await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
    return server, port


class ObjectStub:
    """The door to a servicer object in this process."""

    def __init__(self, servicer: Any) -> None:
        self._servicer = servicer

    def __getattr__(self, method: str) -> Callable[..., Any]:
        return functools.partial(getattr(self._servicer, method), grpc_context=None)


class ChannelStub:
    """The door to a service behind a gRPC channel; raises domain errors.

    Args:
        stub: the generated stub over a grpc.aio channel.
        name: the service's name in errors.
        streaming: methods that answer with a stream.
    """

    def __init__(self, stub: Any, name: str, streaming: frozenset[str] = frozenset()) -> None:
        self._stub = stub
        self._name = name
        self._streaming = streaming

    def __getattr__(self, method: str) -> Callable[..., Any]:
        call = getattr(self._stub, method)
        door = self._stream if method in self._streaming else self._single
        return functools.partial(door, method, call)

    async def _single(self, method: str, call, request):
        with calling(self._name, method, request):
            try:
                return await call(request, timeout=_time_left(request))
            except grpc.aio.AioRpcError as error:
                raise status_error(error, self._name) from None

    async def _stream(self, method: str, call, request) -> AsyncIterator[Any]:
        with calling(self._name, method, request):
            replies = call(request, timeout=_time_left(request))
            try:
                async for reply in replies:
                    yield reply
            except grpc.aio.AioRpcError as error:
                raise status_error(error, self._name) from None
            finally:
                replies.cancel()


def status_error(error: grpc.aio.AioRpcError, name: str) -> LarimarError:
    """The domain error of a failed call."""
    trailing = dict(error.trailing_metadata() or ())
    reason = trailing.get(REASON_KEY)
    reason = reason.decode() if isinstance(reason, bytes) else reason
    details = error.details() or ""
    gone = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)  # it is down, or it stopped
    if error.code() in gone and reason is None:
        return Unavailable(f"the {name} service does not answer: retry", "SERVICE_DOWN")
    return from_code(error.code().value[0], details, reason)


def _time_left(request: Any) -> float | None:
    deadline = request.context.deadline_unix_s
    return max(0.001, deadline - time.time()) if deadline else None


def _late() -> DeadlineExceeded:
    return DeadlineExceeded("the deadline passed: retry, an edit with the same event id")


def check_deadline(request: Any) -> None:
    """Raises: DeadlineExceeded when the caller of a request has stopped waiting."""
    deadline = request.context.deadline_unix_s
    if deadline and time.time() > deadline:
        raise _late()


@contextlib.asynccontextmanager
async def until(deadline_unix_s: float) -> AsyncIterator[None]:
    """Ends what runs in the block at a deadline. Raises: DeadlineExceeded."""
    try:
        async with asyncio.timeout(deadline_unix_s - time.time()):
            yield
    except TimeoutError:
        raise _late() from None


RETRY_PAUSES_S = (0.05, 0.2, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0)
"""Pauses between tries of a call whose service is down: a killed one is back in 2 to 4 s."""


RETRIED_REASONS = frozenset({"SERVICE_DOWN", "STORE_DOWN"})


async def retried(call: Callable[[], Awaitable[Any]], deadline_unix_s: float) -> Any:
    """The answer of a call that is safe to repeat, tried again while its service is down."""
    for pause_s in (*RETRY_PAUSES_S, None):
        try:
            return await call()
        except Unavailable as error:
            late = deadline_unix_s and pause_s and time.time() + pause_s > deadline_unix_s
            if error.reason not in RETRIED_REASONS or pause_s is None or late:
                raise
        await asyncio.sleep(pause_s)
