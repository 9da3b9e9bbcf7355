"""Facts as resources, and the questions that they answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse

from larimar.v1 import larimar_pb2 as pb
from services.gateway.http.bodies import (
    AskBody,
    BankPath,
    CensorBody,
    EraseBody,
    IdPath,
    IdQuery,
    IngestBody,
    PageSize,
    PageToken,
    RecallBody,
    ScoreBody,
    VersionQuery,
    WriteBody,
)
from services.gateway.http.rendering import plain
from services.gateway.http.routes import Call, CallRoute, HttpCall, calls
from services.gateway.http.search import MAX_SEARCH_CHARS, matching_facts
from services.gateway.http.sse import STREAM, EventStream, event

router = APIRouter(prefix="/v1/banks/{bank}", route_class=CallRoute, tags=["facts"])


@router.get("/facts", **calls("ListFacts"))
async def list_facts(
    bank: BankPath,
    call: Call,
    search: Annotated[
        str, Query(max_length=MAX_SEARCH_CHARS, description="Text in id, prompt or answer.")
    ] = "",
    fact_id: IdQuery = "",
    at_version: VersionQuery = 0,
    page_size: PageSize = 0,
    page_token: PageToken = "",
) -> Response:
    """Live facts by fact id, a page at a time.

    With `search` a call looks at a part of the bank: its page may be short, or empty, and the
    last one has no `next_after`.
    """
    request = pb.ListFactsRequest(
        bank=bank,
        page_size=page_size,
        after=page_token,
        fact_id=fact_id,
        at_version=at_version,
    )
    if search:
        return await matching_facts(call, request, search)
    return await call.answer("ListFacts", request)


@router.post("/facts", **calls("Write"))
async def write_fact(bank: BankPath, body: WriteBody, call: Call) -> Response:
    """Writes a fact. Acknowledged means durable; safe to retry with the same event id."""
    return await call.answer("Write", body.fill(pb.WriteRequest, bank=bank))


@router.delete("/facts/{fact_id:path}", **calls("Forget"))
async def forget_fact(
    bank: BankPath, fact_id: IdPath, call: Call, event_id: IdQuery = ""
) -> Response:
    """Removes a fact's contribution exactly. Safe to retry with the same event id."""
    request = pb.ForgetRequest(bank=bank, fact_id=fact_id, event_id=event_id)
    return await call.answer("Forget", request)


@router.post("/censor", **calls("Censor"))
async def censor(bank: BankPath, body: CensorBody, call: Call) -> Response:
    """Writes "unknown" as the answer of a prompt."""
    return await call.answer("Censor", body.fill(pb.CensorRequest, bank=bank))


@router.post("/erasures", **calls("Erase"))
async def erase_facts(bank: BankPath, body: EraseBody, call: Call) -> Response:
    """Erases facts from a bank and all its forks; the rest goes on after the answer."""
    return await call.answer("Erase", body.fill(pb.EraseRequest, bank=bank))


@router.get("/erasures/{erase_id:path}", **calls("GetErase"))
async def get_receipt(bank: BankPath, erase_id: IdPath, call: Call) -> Response:
    """The receipt of an erasure, by its event id."""
    return await call.answer("GetErase", pb.GetEraseRequest(bank=bank, event_id=erase_id))


@router.post("/ask", **calls("Ask", responses=STREAM))
async def ask(bank: BankPath, body: AskBody, call: Call) -> Response:
    """Answers a prompt; with `stream`, a piece an event, the last with its provenance."""
    request = body.fill(pb.AskRequest, bank=bank, sampling=body.sampling(), whole=not body.stream)
    if body.stream:
        return await EventStream(_pieces(call, request)).begun()
    return JSONResponse(plain(await call.only("Ask", request)))


async def _pieces(call: HttpCall, request: pb.AskRequest) -> AsyncGenerator[str, None]:
    async for reply in call.replies("Ask", request):
        yield event(plain(reply))


@router.post("/score", **calls("Score"))
async def score(bank: BankPath, body: ScoreBody, call: Call) -> Response:
    """Log probabilities of candidate answers."""
    return await call.answer("Score", body.fill(pb.ScoreRequest, bank=bank))


@router.post("/recall", **calls("Recall"))
async def recall(bank: BankPath, body: RecallBody, call: Call) -> Response:
    """Answers from the passages of documents, without scope."""
    request = body.fill(pb.RecallRequest, bank=bank, sampling=body.sampling())
    return await call.answer("Recall", request)


@router.post("/documents", **calls("Ingest"))
async def ingest(bank: BankPath, body: IngestBody, call: Call) -> Response:
    """Writes a document, or a piece of one, as passages with their place in it."""
    return await call.answer("Ingest", body.fill(pb.IngestRequest, bank=bank))
