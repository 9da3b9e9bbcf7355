"""How a route becomes a call of the gateway: scope of the key, body, deadline, disconnect."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from typing import Annotated, Any

from fastapi import Depends, Header, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from google.protobuf.message import Message
from starlette.types import Receive

from larimar.errors import Cancelled, DeadlineExceeded
from larimar.v1 import larimar_pb2
from services.gateway.auth import check_scope
from services.gateway.calls import LONG_DEADLINE_S
from services.gateway.http.door import KEY
from services.gateway.http.errors import ErrorBody, error_response, http_error
from services.gateway.http.rendering import model_of, plain

METHOD_FIELD = "x-larimar-method"
"""Field of an operation in the OpenAPI document: the gRPC method that it is, and whose scope the
key must have."""
MAX_TIMEOUT_S = LONG_DEADLINE_S
"""Longest time that a caller may give a call: that of a replay."""
BODY_TIMEOUT_S = 30.0
"""Time that the body of a request has to come: one that drips is cut."""

ERROR_BY_REFERENCE = {
    "description": "An error.",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}},
}
"""What a route says of its errors whose answers are no JSON."""

_ERROR = {"model": ErrorBody, "description": "An error."}
_METHODS = larimar_pb2.DESCRIPTOR.services_by_name["Larimar"].methods_by_name


class HttpCall:
    """One call of the gateway that came over HTTP; servicers ask it as they ask gRPC's context."""

    def __init__(self, service: Any, timeout_s: float) -> None:
        self._service = service
        self._ends_s = time.monotonic() + timeout_s if timeout_s else None

    def time_remaining(self) -> float | None:
        """Seconds that the caller still waits; None where it did not say."""
        return None if self._ends_s is None else self._ends_s - time.monotonic()

    async def answer(self, method: str, request: Message) -> JSONResponse:
        """The JSON of what a method answers. Raises: LarimarError."""
        return JSONResponse(plain(await self.reply(method, request)))

    async def only(self, method: str, request: Message) -> Any:
        """The one message of a streaming method. Raises: LarimarError."""
        async with contextlib.aclosing(self.replies(method, request)) as replies:
            return await anext(replies)

    async def reply(self, method: str, request: Any) -> Any:
        """What a method answers. Raises: LarimarError."""
        return await getattr(self._service, method)(request, self)

    def replies(self, method: str, request: Any) -> AsyncGenerator[Any, None]:
        """What a streaming method answers, a message at a time."""
        return getattr(self._service, method)(request, self)


def _call(
    request: Request,
    x_larimar_timeout_s: Annotated[
        float,
        Header(ge=0, le=MAX_TIMEOUT_S, description="Seconds that the caller waits; 0: as usual."),
    ] = 0.0,
) -> HttpCall:
    return HttpCall(request.app.state.service, x_larimar_timeout_s)


Call = Annotated[HttpCall, Depends(_call)]
"""A parameter of an endpoint: its call."""


def calls(method: str, responses: Mapping[Any, Any] | None = None, **more: Any) -> Any:
    """What the declaration of a route says when it calls a method of the gateway."""
    return {
        "response_model": model_of(_METHODS[method].output_type),
        "responses": {"default": _ERROR, **(responses or {})},
        "openapi_extra": {METHOD_FIELD: method, **more.pop("openapi_extra", {})},
        **more,
    }


class CallRoute(APIRoute):
    """A route that calls the gateway: the key's scope first, then the body, then the call.

    The call ends when its caller goes away.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See APIRoute."""
        inner = super().get_route_handler()
        method = (self.openapi_extra or {}).get(METHOD_FIELD, "")

        async def handler(request: Request) -> Response:
            try:
                key = request.scope.get(KEY)
                if key is not None:
                    check_scope(key, method)
                body = await read_body(request.receive)
                read = Request(request.scope, _replayed(body))
                return await _while_there(request.receive, inner(read))
            except Exception as error:
                return error_response(http_error(error))

        return handler


async def read_body(receive: Receive) -> bytes:
    """The body of a request. Raises: Cancelled, DeadlineExceeded."""
    parts = []
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Cancelled("the caller went away")
                parts.append(message.get("body", b""))
                if not message.get("more_body"):
                    return b"".join(parts)
    except TimeoutError:
        raise DeadlineExceeded(
            f"the body did not come within {BODY_TIMEOUT_S:.0f} s: send it again"
        ) from None


def _replayed(body: bytes) -> Receive:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


async def gone(receive: Receive) -> None:
    """Returns when the caller of a request has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _while_there(receive: Receive, work: Coroutine[Any, Any, Response]) -> Response:
    """The result of some work, which is cancelled when the caller goes away."""
    working, leaving = asyncio.create_task(work), asyncio.create_task(gone(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Cancelled("the caller went away")
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)
