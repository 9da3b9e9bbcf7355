"""Who may call what: API keys, checked before a request is read, by gRPC or by HTTP."""

from __future__ import annotations

import contextlib
import functools
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc

from larimar.errors import (
    LarimarError,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from services.audit import OPERATOR
from services.gateway.tenancy import set_tenant
from services.keys import ApiKey, Keys, split_key
from services.observability.metrics import REFUSED_CALLS
from services.rpc import until

SERVICE = "larimar.v1.Larimar"
OPEN_SERVICES = frozenset({"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"})
"""What answers without a key: that it serves, and its contract."""
MAX_OPEN_CALLS = 32
"""Calls without a key in progress at once: an eighth of MAX_CONCURRENT_RPCS, so that who has no key
leaves the others theirs."""
OPEN_CALL_S = 10.0
"""How long a call without a key may last, its request and replies: it takes milliseconds."""
METHOD_SCOPES: dict[str, str] = {
    "Write": "edit",
    "WriteMany": "edit",
    "Forget": "edit",
    "Edit": "edit",
    "Censor": "edit",
    "Erase": "edit",
    "GetErase": "read",
    "Ask": "read",
    "Score": "read",
    "CreateBank": "admin",
    "GetBank": "read",
    "ListBanks": "read",
    "DeleteBank": "admin",
    "ListFacts": "read",
    "ListEvents": "read",
    "Digest": "read",
    "Replay": "read",
    "ForkBank": "admin",
    "MergeBank": "edit",
    "DiffBank": "read",
    "ExportBank": "read",
    "ImportBank": "admin",
    "Watch": "read",
    "Dream": "read",
    "Ingest": "edit",
    "Recall": "read",
    "Publish": "edit",
    "PublishMany": "edit",
    "ListDeadLetters": "admin",
    "RequeueDeadLetters": "admin",
    "DropDeadLetters": "admin",
    "ReencodeBank": "admin",
    "Checkpoint": "admin",
    "GetStatus": "read",
}
"""The scope that each method of the public service needs; a method that is not here is refused."""
TENANT_KEY = "larimar-tenant"
"""Metadata that names whose call it is, on the private socket, which the operator alone reaches."""
CACHE_S = 5.0
"""How long a key is taken to be as it was: a revocation takes effect within it, also for a stream
that is open, before its next part."""
OUTAGE_S = 60.0
"""How long a key that was good stays good while the store does not answer."""
MAX_CACHED = 4096
"""Keys that are remembered; unknown ids never are."""


class KeyGate:
    """Knows the callers by their keys; what gRPC and HTTP share.

    A key comes as `authorization: Bearer lk_...` or `x-api-key: lk_...`.
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._cache: OrderedDict[str, tuple[float, ApiKey]] = OrderedDict()

    async def caller(self, headers: Iterable[tuple[str, Any]]) -> ApiKey:
        """The key of a call, by its headers or metadata, whose names are in lower case.

        Raises:
            Unauthenticated: NO_KEY or BAD_KEY.
            Unavailable: the store does not answer, and the key was not good within OUTAGE_S.
        """
        shown = _shown_key(headers)
        if shown is None:
            raise Unauthenticated(
                "this pipeline asks for an API key: connect with api_key=..., or set "
                "LARIMAR_API_KEY; over HTTP send `authorization: Bearer KEY`",
                "NO_KEY",
            )
        parts = split_key(shown)
        key = await self._find(parts[0]) if parts else None
        if parts is None or key is None or not key.opens(parts[1]):
            raise _bad_key()
        return key

    async def check_again(self, key_id: str) -> None:
        """Looks, while a call goes on, whether its key still counts. Raises: as `caller`."""
        key = await self._find(key_id)
        if key is None or key.revoked_ms:
            raise _bad_key()

    def bind(self, key: ApiKey) -> None:
        """Binds the call that runs to its key and the key's tenant."""
        set_tenant(key.tenant, key.key_id, functools.partial(self.check_again, key.key_id))

    async def _find(self, key_id: str) -> ApiKey | None:
        now = time.monotonic()
        cached = self._cache.get(key_id)
        if cached is not None and now - cached[0] < CACHE_S:
            return cached[1]
        try:
            key = await self._keys.find(key_id)
        except Unavailable:
            if cached is not None and now - cached[0] < OUTAGE_S:
                return cached[1]
            raise
        if key is None:
            self._cache.pop(key_id, None)
            return None
        self._cache[key_id] = now, key
        self._cache.move_to_end(key_id)
        while len(self._cache) > MAX_CACHED:
            self._cache.popitem(last=False)
        return key


def _bad_key() -> Unauthenticated:
    return Unauthenticated("the API key is unknown or revoked: ask the operator for one", "BAD_KEY")


def check_scope(key: ApiKey, method: str) -> None:
    """Lets a key make a call. Raises: PermissionDenied.

    Args:
        method: of larimar.v1.Larimar, also where the call came by another way.
    """
    needed = METHOD_SCOPES.get(method)
    if needed is None:
        raise PermissionDenied(
            "no API key may make this call: see the methods of larimar.v1.Larimar",
            "UNKNOWN_METHOD",
        )
    if needed not in key.scopes:
        raise PermissionDenied(
            f"this call needs an API key with the scope {needed}, and key "
            f"{key.key_id} has {', '.join(key.scopes)}",
            "MISSING_SCOPE",
        )


class KeyInterceptor(grpc.aio.ServerInterceptor):
    """Lets a call through when its key has the scope, and binds it to the key's tenant.

    The key comes as metadata. A refused call is answered before its request is read. What needs no
    key is answered to few at once, and for a short time.
    """

    def __init__(self, keys: Keys) -> None:
        self._gate = KeyGate(keys)
        self._open_calls = 0

    async def intercept_service(self, continuation, handler_call_details):
        """Checks the key of a call."""
        service, _, method = handler_call_details.method.lstrip("/").rpartition("/")
        if service in OPEN_SERVICES:
            return self._opened(await continuation(handler_call_details))
        try:
            key = await self._gate.caller(handler_call_details.invocation_metadata or ())
            check_scope(key, method if service == SERVICE else "")
        except LarimarError as error:
            return _refusing(error)
        self._gate.bind(key)
        return await continuation(handler_call_details)

    def _opened(self, handler: Any) -> Any:
        """The handler of a call without a key, within MAX_OPEN_CALLS and OPEN_CALL_S."""
        if handler is None:
            return None

        async def answered(request_iterator, grpc_context):
            if self._open_calls >= MAX_OPEN_CALLS:
                raise ResourceExhausted(
                    f"{self._open_calls} calls without a key are in progress, which is the limit: "
                    "retry later",
                    "TOO_MANY_CALLS",
                    1.0,
                )
            self._open_calls += 1
            deadline = time.time() + OPEN_CALL_S
            try:
                replies = _replies(handler, aiter(request_iterator), grpc_context)
                async with contextlib.aclosing(replies):
                    while True:
                        async with until(deadline):
                            reply = await anext(replies, None)
                        if reply is None:
                            return
                        yield reply
            finally:
                self._open_calls -= 1

        return grpc.stream_stream_rpc_method_handler(
            answered, handler.request_deserializer, handler.response_serializer
        )


class OperatorInterceptor(grpc.aio.ServerInterceptor):
    """Binds a call on the private socket to the tenant that it names."""

    async def intercept_service(self, continuation, handler_call_details):
        """Looks at the metadata of a call."""
        named = dict(handler_call_details.invocation_metadata or ()).get(TENANT_KEY, "")
        set_tenant(str(named), OPERATOR)
        return await continuation(handler_call_details)


def _shown_key(headers: Iterable[tuple[str, Any]]) -> str | None:
    for name, value in headers:
        if name == "x-api-key" and isinstance(value, str):
            return value.strip()
        if name == "authorization" and isinstance(value, str):
            kind, _, rest = value.partition(" ")
            if kind.lower() == "bearer":
                return rest.strip()
    return None


async def _replies(handler: Any, requests: AsyncIterator, grpc_context: Any):
    """What a handler answers, whatever its shape; requests are awaited here, not at the server."""
    if handler.request_streaming:
        asked: Any = requests
    else:
        asked = await anext(requests, None)
        if asked is None:
            return  # the caller ended its side without a request
    if not handler.response_streaming:
        answer = handler.stream_unary if handler.request_streaming else handler.unary_unary
        yield await answer(asked, grpc_context)
        return
    stream = handler.stream_stream if handler.request_streaming else handler.unary_stream
    async with contextlib.aclosing(stream(asked, grpc_context)) as replies:
        async for reply in replies:
            yield reply


def _refusing(error: LarimarError) -> Any:
    """A handler that answers with an error without waiting for a request."""
    REFUSED_CALLS.labels(error.reason).inc()

    async def refuse(request_iterator, grpc_context):
        raise error
        yield  # makes it a generator, as the handler of a stream is

    return grpc.stream_stream_rpc_method_handler(refuse)
