"""From what users send to the items of an append, and back."""

from __future__ import annotations

import uuid

from larimar.defaults import CENSORED_ANSWER, default_fact_id
from larimar.errors import InvalidArgument, LarimarError
from larimar.v1 import common_pb2, larimar_pb2, memory_pb2
from services.limits import MAX_REPHRASINGS, check_id, check_text, check_version


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
    item = memory_pb2.AppendItem(
        kind=common_pb2.EVENT_KIND_WRITE,
        event_id=check_id("event id", request.event_id) or uuid.uuid4().hex,
        fact_id=check_id("fact id", request.fact_id) or default_fact_id(request.prompt),
        prompt=request.prompt,
        answer=request.answer,
        rephrasings=request.rephrasings,
    )
    if request.HasField("expected_version"):
        item.expected_version = check_version("expected_version", request.expected_version)
    return item


def prepared_censor(request: larimar_pb2.CensorRequest) -> memory_pb2.AppendItem:
    """The WRITE item that censors a prompt. Raises: InvalidArgument."""
    return prepared_write(
        larimar_pb2.WriteRequest(
            prompt=request.prompt,
            answer=CENSORED_ANSWER,
            rephrasings=request.rephrasings,
            fact_id=request.fact_id,
            event_id=request.event_id,
        )
    )


def prepared_forget(request: larimar_pb2.ForgetRequest) -> memory_pb2.AppendItem:
    """The FORGET item of a request, checked and with its event id. Raises: InvalidArgument."""
    if not request.fact_id:
        raise InvalidArgument("forget needs a fact id: see `larimar facts`", "EMPTY_ID")
    return memory_pb2.AppendItem(
        kind=common_pb2.EVENT_KIND_FORGET,
        fact_id=check_id("fact id", request.fact_id),
        event_id=check_id("event id", request.event_id) or uuid.uuid4().hex,
    )


def prepared_edit(request: larimar_pb2.EditItem, bank: str) -> memory_pb2.AppendItem:
    """The item of one edit of a batch on a bank. Raises: InvalidArgument."""
    kind = request.WhichOneof("edit")
    if kind is None:
        raise InvalidArgument("an item says write, forget or censor", "BAD_EDIT")
    edit = getattr(request, kind)
    if edit.bank not in ("", bank):
        raise InvalidArgument(
            f"an item names bank {edit.bank!r}, the call is on {bank!r}: one call edits one bank",
            "BAD_EDIT",
        )
    prepare = {"write": prepared_write, "forget": prepared_forget, "censor": prepared_censor}
    return prepare[kind](edit)


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
