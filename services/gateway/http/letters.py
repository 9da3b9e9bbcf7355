"""Dead letters, and what is running: what an operator asks."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from larimar.v1 import larimar_pb2 as pb
from services.gateway.http.bodies import LettersBody
from services.gateway.http.routes import Call, CallRoute, calls
from services.gateway.publish import MAX_LETTERS_PAGE

router = APIRouter(prefix="/v1", route_class=CallRoute, tags=["operation"])


@router.get("/status", **calls("GetStatus"))
async def get_status(call: Call) -> Response:
    """What is running, and of which model."""
    return await call.answer("GetStatus", pb.GetStatusRequest())


@router.get("/dead-letters", **calls("ListDeadLetters"))
async def list_letters(
    call: Call,
    page_size: Annotated[int, Query(ge=0, le=MAX_LETTERS_PAGE)] = 0,
    page_token: Annotated[
        str, Query(max_length=41, pattern=r"^([0-9]{1,20}(-[0-9]{1,20})?)?$")
    ] = "",
) -> Response:
    """Events of the inbox that could not be applied, with the reason, oldest first."""
    request = pb.ListDeadLettersRequest(page_size=page_size, after=page_token)
    return await call.answer("ListDeadLetters", request)


@router.post("/dead-letters/requeue", **calls("RequeueDeadLetters"))
async def requeue_letters(body: LettersBody, call: Call) -> Response:
    """Puts dead letters back into the inbox. Safe to retry."""
    return await call.answer("RequeueDeadLetters", body.fill(pb.RequeueDeadLettersRequest))


@router.post("/dead-letters/drop", **calls("DropDeadLetters"))
async def drop_letters(body: LettersBody, call: Call) -> Response:
    """Throws dead letters away. Safe to retry."""
    return await call.answer("DropDeadLetters", body.fill(pb.DropDeadLettersRequest))
