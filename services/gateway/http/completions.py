"""Completions and chats in OpenAI's shape; a model is a bank.

The last message of a chat is the question: scope and memory see it alone. What came before, the
system's message too, is read by the decoder in front of it, a message a line.

Source: OpenAI's API reference, completions, chat completions and models.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated, Any

from fastapi import APIRouter, Path, Response
from fastapi.responses import JSONResponse

from larimar.defaults import DEFAULT_BANK
from larimar.errors import NotFound
from larimar.v1 import larimar_pb2 as pb
from services.gateway.http.completion_answers import (
    CHAT,
    TEXT,
    Answering,
    ChatCompletion,
    Completion,
    Model,
    Models,
    Shape,
    source_headers,
)
from services.gateway.http.completion_bodies import MAX_MODEL_NAME, ChatBody, CompletionBody
from services.gateway.http.routes import Call, CallRoute, HttpCall, calls
from services.gateway.http.sse import STREAM, EventStream, event, raw_event

BASE = "base"
"""The model that has no memory: the plain decoder."""
OURS = "larimar"
"""The model that is the default bank; `larimar/BANK` is another one."""
DONE = "[DONE]"
"""What a stream of this interface ends with."""

router = APIRouter(prefix="/v1", route_class=CallRoute, tags=["completions"])


@router.post("/completions", **calls("Ask", response_model=Completion, responses=STREAM))
async def completions(body: CompletionBody, call: Call) -> Response:
    """Continues a text, from the memory of a bank where the text is in its scope."""
    return await _answered(TEXT, body, call)


@router.post("/chat/completions", **calls("Ask", response_model=ChatCompletion, responses=STREAM))
async def chat_completions(body: ChatBody, call: Call) -> Response:
    """Answers the last message of a chat, from the memory of a bank where it is in its scope."""
    return await _answered(CHAT, body, call)


@router.get("/models", **calls("ListBanks", response_model=Models))
async def list_models(call: Call) -> Response:
    """All banks as models, and the decoder without memory."""
    listed = await call.reply("ListBanks", pb.ListBanksRequest())
    names = [f"{OURS}/{one.config.bank}" for one in listed.banks]
    return JSONResponse({"object": "list", "data": [_model(name) for name in (BASE, OURS, *names)]})


@router.get("/models/{model:path}", **calls("GetBank", response_model=Model))
async def get_model(model: Annotated[str, Path(max_length=MAX_MODEL_NAME)], call: Call) -> Response:
    """One model."""
    bank = bank_of(model)
    if bank and model != OURS:
        await call.reply("GetBank", pb.GetBankRequest(bank=bank))
    return JSONResponse(_model(model))


def bank_of(model: str) -> str:
    """The bank that a model's name says; empty for the model without memory. Raises: NotFound."""
    if model == BASE:
        return ""
    if model == OURS:
        return DEFAULT_BANK
    ours, _, bank = model.partition("/")
    if ours != OURS or not bank:
        raise NotFound(
            f"no model {model!r}: use {OURS}/BANK, {OURS} or {BASE}, see /v1/models",
            "UNKNOWN_MODEL",
        )
    return bank


def _model(name: str) -> dict[str, Any]:
    return Model(id=name, created=0).model_dump()


async def _answered(shape: Shape, body: CompletionBody | ChatBody, call: HttpCall) -> Response:
    bank = bank_of(body.model)
    preamble, prompt = body.question()
    request = pb.AskRequest(
        bank=bank,
        prompt=prompt,
        preamble=preamble,
        sampling=body.sampling(),
        no_memory=not bank,
        whole=not body.stream,
    )
    answering = Answering(shape, body.model, bool(bank))
    if body.stream:
        return await EventStream(_pieces(call, request, answering, body.with_usage)).begun()
    reply = await call.only("Ask", request)
    return JSONResponse(answering.whole(reply), headers=source_headers(answering.source(reply)))


async def _pieces(
    call: HttpCall, request: pb.AskRequest, answering: Answering, with_usage: bool
) -> AsyncGenerator[str, None]:
    first = True
    async for reply in call.replies("Ask", request):
        yield event(answering.piece(reply, first))
        first = False
        if with_usage and reply.finish_reason:
            yield event(answering.last(reply))
    yield raw_event(DONE)
