"""Edit events over HTTP: CloudEvents 1.0, structured, binary and in batches.

Source: CloudEvents 1.0.2, the HTTP protocol binding and the JSON event format.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from itertools import islice
from typing import Any
from urllib.parse import unquote

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from larimar.edit_events import (
    ATTRIBUTES,
    EDIT_TYPES,
    MAX_ATTRIBUTE_BYTES,
    SPECVERSION,
    TRACE_ATTRIBUTES,
    bad_event,
    from_json,
)
from larimar.errors import InvalidArgument
from larimar.v1 import larimar_pb2 as pb
from services.gateway.applying import as_status
from services.gateway.event_schemas import data_schema, envelope_schema
from services.gateway.http.rendering import model_of, plain
from services.gateway.http.routes import Call, CallRoute, HttpCall, calls

STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
BINARY = "application/json"
PREFIX = "ce-"
"""What the name of a header that is an attribute begins with, in binary mode."""
MAX_BATCH_EVENTS = 1000
"""Events of one batch: they are applied while its caller waits."""

router = APIRouter(prefix="/v1", route_class=CallRoute, tags=["events"])

_Published = model_of(pb.PublishResponse.DESCRIPTOR)
_Settled = model_of(pb.PublishManyResponse.DESCRIPTOR)
_decoder = json.JSONDecoder()
_BLANKS = re.compile(r"[ \t\r\n]*")


class PublishedBatch(BaseModel):
    """What became of each event of a batch, in order."""

    results: list[_Settled]  # type: ignore[valid-type]


def _declared() -> dict[str, Any]:
    """The request as OpenAPI says it: three content types, and the headers of the binary one."""
    envelope = {"oneOf": [envelope_schema(name, one) for name, one in EDIT_TYPES.items()]}
    batch = {"type": "array", "maxItems": MAX_BATCH_EVENTS, "items": envelope}
    data = {"anyOf": [data_schema(one) for one in EDIT_TYPES.values()]}
    schemas = {STRUCTURED: envelope, BATCH: batch, BINARY: data}
    attribute = {"type": "string", "maxLength": MAX_ATTRIBUTE_BYTES}
    any_text = {"type": "string"}  # a trace that is malformed or too long is ignored
    schemas_of = [(name, attribute) for name in ATTRIBUTES]
    schemas_of += [(name, any_text) for name in TRACE_ATTRIBUTES]
    return {
        "requestBody": {
            "required": True,
            "content": {name: {"schema": schema} for name, schema in schemas.items()},
        },
        "parameters": [
            {
                "name": f"{PREFIX}{name}",
                "in": "header",
                "description": f"Attribute {name} of an event in binary mode.",
                "schema": schema,
            }
            for name, schema in schemas_of
            if name != "datacontenttype"
        ],
    }


@router.post(
    "/events",
    **calls(
        "Publish",
        response_model=_Published | PublishedBatch,
        openapi_extra=_declared(),
    ),
)
async def publish(request: Request, call: Call) -> Response:
    """Takes one edit event, or a batch of them. Acknowledged means durable; safe to retry."""
    body = await request.body()
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == BATCH:
        return await _batch(call, body)
    if kind == STRUCTURED:
        event = from_json(body)
    elif f"{PREFIX}specversion" in request.headers:
        event = _binary(request.headers, body)
    else:
        raise InvalidArgument(
            f"an event comes as {STRUCTURED}, as {BATCH}, or as JSON with {PREFIX} headers",
            "BAD_CONTENT_TYPE",
        )
    return await call.answer("Publish", pb.PublishRequest(event=event))


def _binary(headers: Mapping[str, str], body: bytes) -> pb.CloudEvent:
    """The event whose attributes are headers and whose data is the body."""
    given = {
        name: unquote(headers.get(f"{PREFIX}{name}", ""))
        for name in (*ATTRIBUTES, *TRACE_ATTRIBUTES)
    }
    if given["specversion"] != SPECVERSION:
        raise bad_event(f"{PREFIX}specversion must be {SPECVERSION!r}")
    given["datacontenttype"] = headers.get("content-type", "")
    return pb.CloudEvent(**given, data=body)


async def _batch(call: HttpCall, body: bytes) -> Response:
    """Applies the events of a batch in their order; one that is none fails alone."""
    results: list[pb.PublishManyResponse | None] = []
    events: list[pb.CloudEvent] = []
    for raw in _elements(body):
        try:
            events.append(from_json(raw.encode()))
            results.append(None)
        except InvalidArgument as error:
            results.append(pb.PublishManyResponse(status=as_status(error)))
    async with asyncio.timeout(call.time_remaining()):
        replies = [reply async for reply in call.replies("PublishMany", _requests(events))]
    settled = iter(replies)
    shown = [plain(one or next(settled)) for one in results]
    return JSONResponse({"results": shown})


async def _requests(events: list[pb.CloudEvent]) -> AsyncIterator[pb.PublishManyRequest]:
    for event in events:
        yield pb.PublishManyRequest(event=event)


def _elements(body: bytes) -> list[str]:
    """The elements of a JSON array, as they were written, read no further than the limit.

    Raises: InvalidArgument.
    """
    try:
        elements = list(islice(_split(body.decode("utf-8")), MAX_BATCH_EVENTS + 1))
    except (ValueError, RecursionError):
        raise bad_event("the batch is not a JSON array") from None
    if len(elements) > MAX_BATCH_EVENTS:
        raise InvalidArgument(
            f"more than {MAX_BATCH_EVENTS} events in one batch: split it",
            "TOO_MANY_ITEMS",
        )
    return elements


def _split(text: str) -> Iterator[str]:
    """Each element of an array as it was written, for the parser of events. Raises: ValueError."""
    at = _skip(text, 0, "[")
    if text[at : at + 1] != "]":
        while True:
            _, end = _decoder.raw_decode(text, at)
            yield text[at:end]
            at = _blanks(text, end)
            if text[at : at + 1] == "]":
                break
            at = _skip(text, at, ",")
    if _blanks(text, at + 1) != len(text):
        raise ValueError


def _blanks(text: str, at: int) -> int:
    """Where blanks that begin at a place end."""
    found = _BLANKS.match(text, at)
    return found.end() if found else at


def _skip(text: str, at: int, mark: str) -> int:
    """Where the next thing begins after a mark and blanks around it. Raises: ValueError."""
    at = _blanks(text, at)
    if text[at : at + 1] != mark:
        raise ValueError
    return _blanks(text, at + 1)
