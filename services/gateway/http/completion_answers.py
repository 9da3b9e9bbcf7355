"""What clients of OpenAI's interface get, with a field of our own: where an answer came from."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

from pydantic import BaseModel, Field

from larimar.v1 import larimar_pb2
from services.gateway.http.rendering import plain

FinishReason = Literal["stop", "length"]


class Usage(BaseModel):
    """Tokens that a call took."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Source(BaseModel):
    """Where an answer came from."""

    bank: str | None = Field(description="Null for the model without memory.")
    in_scope: bool
    scope_score: float
    fact_id: str | None = Field(description="The nearest fact, when the question is in scope.")
    version: int


class Choice(BaseModel):
    """A text that goes on, or a piece of it."""

    index: int = 0
    text: str
    logprobs: None = None
    finish_reason: FinishReason | None


class Answer(BaseModel):
    """A message of the model."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    """An answer."""

    index: int = 0
    message: Answer
    logprobs: None = None
    finish_reason: FinishReason


class Answered(BaseModel):
    """What all answers hold."""

    id: str
    created: int
    model: str
    usage: Usage | None
    larimar: Source | None


class Completion(Answered):
    """A completion; of a stream, a piece of one."""

    object: Literal["text_completion"] = "text_completion"
    choices: list[Choice]


class ChatCompletion(Answered):
    """An answer to a chat."""

    object: Literal["chat.completion"] = "chat.completion"
    choices: list[ChatChoice]


class Model(BaseModel):
    """A model: a bank, or the decoder without memory."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="Not known: always 0.")
    owned_by: Literal["larimar"] = "larimar"


class Models(BaseModel):
    """All models."""

    object: Literal["list"] = "list"
    data: list[Model]


@dataclass(frozen=True)
class Shape:
    """One of the two shapes of an answer."""

    prefix: str
    whole: str
    """Name of the object that a whole answer is."""
    piece: str
    """Name of the object that a piece of a stream is."""


TEXT = Shape("cmpl", "text_completion", "text_completion")
CHAT = Shape("chatcmpl", "chat.completion", "chat.completion.chunk")


class Answering:
    """Gives the messages of one call the shape that its client knows."""

    def __init__(self, shape: Shape, model: str, has_memory: bool) -> None:
        self._shape = shape
        self._has_memory = has_memory
        self._head = {
            "id": f"{shape.prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, reply: larimar_pb2.AskResponse) -> dict[str, Any]:
        """The answer that is one message."""
        says: dict[str, Any] = {"text": reply.text}
        if self._shape is CHAT:
            says = {"message": {"role": "assistant", "content": reply.text, "refusal": None}}
        return {
            **self._made(self._shape.whole, reply, says),
            "usage": usage(reply),
            "larimar": self.source(reply),
        }

    def piece(self, reply: larimar_pb2.AskResponse, first: bool) -> dict[str, Any]:
        """A piece of a stream; the last one says where the answer came from."""
        says: dict[str, Any] = {"text": reply.text}
        if self._shape is CHAT:
            role = {"role": "assistant"} if first else {}
            says = {"delta": {**role, "content": reply.text}}
        made = self._made(self._shape.piece, reply, says)
        return {**made, "larimar": self.source(reply)} if reply.finish_reason else made

    def last(self, reply: larimar_pb2.AskResponse) -> dict[str, Any]:
        """What a stream took, after its last piece."""
        empty = {"object": self._shape.piece, "choices": [], "usage": usage(reply)}
        return {**self._head, **empty}

    def source(self, reply: larimar_pb2.AskResponse) -> dict[str, Any]:
        """Where the answer came from, as of `Source`."""
        found = plain(reply.provenance)
        return {
            "bank": found["bank"] if self._has_memory else None,
            "in_scope": found["in_scope"],
            "scope_score": found["scope_score"],
            "fact_id": found["fact_id"] or None,
            "version": found["version"],
        }

    def _made(self, kind: str, reply: larimar_pb2.AskResponse, says: dict) -> dict[str, Any]:
        choice = {
            "index": 0,
            **says,
            "logprobs": None,
            "finish_reason": reply.finish_reason or None,
        }
        return {**self._head, "object": kind, "choices": [choice]}


def usage(reply: larimar_pb2.AskResponse) -> dict[str, int]:
    """Tokens of a call, as of `Usage`."""
    return {
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.tokens,
        "total_tokens": reply.prompt_tokens + reply.tokens,
    }


def source_headers(source: dict[str, Any]) -> dict[str, str]:
    """Where an answer came from, as headers, without what is null; ids are percent-encoded."""
    return {
        f"x-larimar-{name.replace('_', '-')}": quote(
            value if isinstance(value, str) else json.dumps(value)
        )
        for name, value in source.items()
        if value is not None
    }
