"""What every HTTP request passes first: host and origin, API key, and limits, before its body."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from larimar.errors import InvalidArgument, PermissionDenied, ResourceExhausted
from services.gateway.auth import KeyGate
from services.gateway.http.errors import error_response, http_error
from services.rpc import MAX_CONCURRENT_RPCS, MAX_MESSAGE_BYTES, MAX_METADATA_BYTES
from services.settings import Settings

MAX_BODY_BYTES = MAX_MESSAGE_BYTES
"""Body of a request: what a gRPC message may hold."""
MAX_HEADER_BYTES = MAX_METADATA_BYTES
"""Headers of a request: what a gRPC call's metadata may hold."""
MAX_HTTP_CALLS = MAX_CONCURRENT_RPCS
"""Calls in progress at one gateway's HTTP port, streams included: as many as at its gRPC port."""
GUARDED = ("/v1/", "/mcp")
"""What needs a key, where keys are asked for; the rest is health, documents and the console."""
KEY = "larimar.key"
"""Where a request's scope holds the `ApiKey` of its caller; None where nobody asked for one."""

LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""What a machine calls itself."""


class Door:
    """Lets requests through to an application, and binds each to the tenant of its key.

    Args:
        gate: knows the keys; None asks for none.
    """

    def __init__(self, app: ASGIApp, gate: KeyGate | None, settings: Settings) -> None:
        self._app = app
        self._gate = gate
        only_here = gate is None and settings.host in LOOPBACK
        names = settings.host_names or (LOOPBACK if only_here else ())
        self._names = frozenset(name.lower() for name in names)
        self._calls = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers for the application where a request is refused, or where it fails."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._admitted(scope, receive, sending)
        except Exception as error:
            if started:
                raise
            await error_response(http_error(error))(scope, receive, send)

    async def _admitted(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        _check_headers(headers)
        self._check_origin(headers)
        _check_length(headers)
        scope[KEY] = None
        if not scope["path"].startswith(GUARDED):
            await self._app(scope, _limited(receive), send)
            return
        if self._gate is not None:
            scope[KEY] = await self._gate.caller(headers.items())
            self._gate.bind(scope[KEY])
        if self._calls >= MAX_HTTP_CALLS:
            raise ResourceExhausted(
                f"{self._calls} calls are in progress, which is the limit: retry later",
                "TOO_MANY_CALLS",
            )
        self._calls += 1
        try:
            await self._app(scope, _limited(receive), send)
        finally:
            self._calls -= 1

    def _check_origin(self, headers: Headers) -> None:
        """Keeps pages of other sites out, which a browser lets call whatever it can reach."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if self._names and _name(f"//{host}")[1] not in self._names:
            raise PermissionDenied(
                f"this port is called {' or '.join(sorted(self._names))}, and was called by "
                "another name: use one of these, or add the other to host_names of the settings",
                "BAD_HOST",
            )
        if origin is not None and _name(origin)[0] != host:
            raise PermissionDenied("pages of other sites may not call this port", "BAD_ORIGIN")


def _name(url: str) -> tuple[str, str | None]:
    """Host with its port, and host alone, of an address; nothing of what is none."""
    try:
        found = urlsplit(url)
        return found.netloc, found.hostname
    except ValueError:
        return "", None


def _check_headers(headers: Headers) -> None:
    if sum(len(name) + len(value) for name, value in headers.raw) > MAX_HEADER_BYTES:
        raise InvalidArgument(
            f"the headers of a request have at most {MAX_HEADER_BYTES} bytes: send fewer",
            "HEADERS_TOO_LARGE",
        )


def _check_length(headers: Headers) -> None:
    length = headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
        raise _too_large()


def _limited(receive: Receive) -> Receive:
    """The same messages; raises once the body is larger than the limit, whatever was announced."""
    size = 0

    async def limited() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > MAX_BODY_BYTES:
            raise _too_large()
        return message

    return limited


def _too_large() -> InvalidArgument:
    return InvalidArgument(
        f"the body of a request has at most {MAX_BODY_BYTES} bytes: split it", "MESSAGE_TOO_LARGE"
    )
