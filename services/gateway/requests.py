"""From what users send to the items of an append, and back."""

from __future__ import annotations

import uuid

from larimar.defaults import default_fact_id
from larimar.errors import InvalidArgument, LarimarError
from larimar.v1 import common_pb2, larimar_pb2, memory_pb2
from services.limits import MAX_REPHRASINGS, check_id, check_text


def prepared_write(request: larimar_pb2.WriteRequest) -> memory_pb2.AppendItem:
    """The WRITE item of a request, checked and with its ids. Raises: InvalidArgument."""
    check_text("prompt", request.prompt)
    check_text("answer", request.answer)
    if len(request.rephrasings) > MAX_REPHRASINGS:
        raise InvalidArgument(
            f"{len(request.rephrasings)} rephrasings, the limit is {MAX_REPHRASINGS}",
            "TOO_MANY_ITEMS",
        )
    for text in request.rephrasings:
        check_text("rephrasing", text)
    return memory_pb2.AppendItem(
        kind=common_pb2.EVENT_KIND_WRITE,
        event_id=check_id("event id", request.event_id) or uuid.uuid4().hex,
        fact_id=check_id("fact id", request.fact_id) or default_fact_id(request.prompt),
        prompt=request.prompt,
        answer=request.answer,
        rephrasings=request.rephrasings,
    )


def write_result(bank: str, item, result) -> larimar_pb2.WriteManyResponse:
    """What one fact of a bulk write came to; `result` is an AppendResult or an error."""
    response = larimar_pb2.WriteManyResponse(
        result=larimar_pb2.WriteResponse(fact_id=item.fact_id, event_id=item.event_id, bank=bank)
    )
    if isinstance(result, LarimarError):
        response.status.CopyFrom(
            common_pb2.Status(code=result.code, reason=result.reason, message=result.message)
        )
    else:
        response.status.CopyFrom(result.status)
        response.result.version = result.version
        response.result.duplicate = result.duplicate
    return response
