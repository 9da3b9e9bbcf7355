"""The tools of larimar/mcp_server.py at the gateway's HTTP port: streamable HTTP, at /mcp.

Every request stands for itself: there are no sessions, so any gateway may answer any request, and
each is made with its own API key.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from contextvars import ContextVar
from typing import Any

from google.protobuf.message import Message
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from starlette.types import Receive, Scope, Send

from larimar import messages
from larimar.errors import Cancelled
from larimar.mcp_server import build_server
from larimar.results import Answer
from larimar.v1 import larimar_pb2
from services.gateway.auth import check_scope
from services.gateway.http.routes import gone, read_body
from services.keys import ApiKey
from services.rpc import MAX_MESSAGE_BYTES

CHECKED_BEFORE = TransportSecuritySettings(enable_dns_rebinding_protection=False)
"""Host and origin of a request are checked where it enters, for all that the port serves."""

_CALLER: ContextVar[ApiKey | None] = ContextVar("larimar_mcp_caller", default=None)


class ServiceDoor:
    """The gateway itself as what the tools speak to: a call needs the scope of its method.

    Args:
        service: the gateway's servicer.
    """

    def __init__(self, service: Any) -> None:
        self._service = service

    async def call(
        self, name: str, request: Message, timeout_s: float | None, event_id: str = ""
    ) -> Any:
        """See larimar.mcp_server.Door."""
        _check(name)
        return await getattr(self._service, name)(request, None)

    async def answer(self, request: larimar_pb2.AskRequest, timeout_s: float | None) -> Answer:
        """See larimar.mcp_server.Door."""
        _check("Ask")
        request.whole = True
        text, last = "", larimar_pb2.AskResponse()
        async with aclosing(self._service.Ask(request, None)) as replies:
            async for last in replies:
                text += last.text
        return messages.answer(text, last)


def _check(method: str) -> None:
    caller = _CALLER.get()
    if caller is not None:
        check_scope(caller, method)


class McpEndpoint:
    """An ASGI application that answers requests of the protocol, while `running`.

    Args:
        service: the gateway's servicer.
        key: under which a request's scope has the `ApiKey` of its caller, where keys are asked for.
    """

    def __init__(self, service: Any, key: str) -> None:
        self._door = ServiceDoor(service)
        self._key = key
        self._manager: StreamableHTTPSessionManager | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Answers while the block runs; may be entered again afterwards."""
        server = build_server(self._door)
        server.streamable_http_app(
            json_response=True,
            stateless_http=True,
            max_request_body_size=MAX_MESSAGE_BYTES,
            transport_security=CHECKED_BEFORE,
        )
        try:
            self._manager = server.session_manager
            async with self._manager.run():
                yield
        finally:
            self._manager = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, as long as its caller is there.

        Raises:
            LarimarError: its body does not come, or the caller goes away before the answer.
        """
        assert self._manager is not None, "the application's lifespan runs the endpoint"
        _CALLER.set(scope.get(self._key))
        body = await read_body(receive)
        begun = False

        async def sending(message: Any) -> None:
            nonlocal begun
            begun = True
            await send(message)

        leaving = asyncio.create_task(gone(receive))
        after = _after(body, leaving)
        answering = asyncio.create_task(self._manager.handle_request(scope, after, sending))
        try:
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                answering.result()
            elif not begun:
                raise Cancelled("the caller went away")
        finally:
            for task in (answering, leaving):
                task.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)


def _after(body: bytes, leaving: asyncio.Task[None]) -> Receive:
    """A body that was read, and then that the caller leaves, for which something else looks out."""
    left = [{"type": "http.request", "body": body, "more_body": False}]

    async def following() -> Any:
        if left:
            return left.pop()
        await asyncio.wait({leaving})
        return {"type": "http.disconnect"}

    return following
