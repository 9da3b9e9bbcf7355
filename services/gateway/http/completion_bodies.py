"""What clients of OpenAI's interface send: what is taken, and what is refused by its name."""

from __future__ import annotations

import secrets
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from larimar.config import LEAST_TOP_P, MAX_TEMPERATURE, MOST_STOP_STRINGS
from larimar.v1 import decoder_pb2
from services.gateway.http.bodies import LARGEST, LARGEST_COUNT, WHOLE, Flag, StopText, Text
from services.gateway.http.errors import BadRequest

MAX_MESSAGES = 256
"""Messages of a chat: all of them must fit the few hundred tokens that a decoder reads."""
MAX_MODEL_NAME = 80
"""Characters of a model's name: the longest name of a bank after `larimar/`."""
SEED_BITS = 64

Tokens = Annotated[int, Field(ge=1, le=LARGEST_COUNT, strict=True), WHOLE]
Zero = Annotated[float, Field(ge=0, le=0, strict=True)]
Empty = Annotated[list[Any], Field(max_length=0)]


class StreamOptions(BaseModel):
    """What a stream holds beside the text."""

    model_config = ConfigDict(extra="forbid")

    include_usage: Flag = False


class Completing(BaseModel):
    """What completions and chats share. Null is as left out."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    model: Annotated[str, Field(max_length=MAX_MODEL_NAME)] = Field(
        description="larimar/BANK; larimar: the bank named default; base: no memory."
    )
    stream: Flag | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Tokens | None = None
    temperature: Annotated[float, Field(ge=0, le=MAX_TEMPERATURE, strict=True)] | None = Field(
        None, description="0, the default, takes the most probable token."
    )
    top_p: Annotated[float, Field(gt=0, le=1, strict=True)] | None = None
    seed: Annotated[int, Field(ge=-LARGEST, le=LARGEST, strict=True), WHOLE] | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=MOST_STOP_STRINGS)] | None = None
    user: str | None = None
    n: Literal[1] | None = None
    logprobs: Literal[False] | None = None
    frequency_penalty: Zero | None = None
    presence_penalty: Zero | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None

    @field_validator("n", "best_of", mode="before", check_fields=False)
    @classmethod
    def _one(cls, value: Any, info: ValidationInfo) -> Any:
        if value not in (None, 1):
            raise ValueError(f"{info.field_name} must be 1: ask again for another answer")
        return value

    @field_validator(
        "frequency_penalty",
        "presence_penalty",
        "logit_bias",
        "top_logprobs",
        "echo",
        "suffix",
        "tools",
        "functions",
        mode="before",
        check_fields=False,
    )
    @classmethod
    def _lacking(cls, value: Any, info: ValidationInfo) -> Any:
        if value:
            raise ValueError(f"this model has no {info.field_name}: leave it out")
        return value

    @field_validator("logprobs", mode="before")
    @classmethod
    def _no_logprobs(cls, value: Any) -> Any:
        if value is not None and value is not False:  # 0 asks for those of the tokens said
            raise ValueError("this model has no logprobs: leave it out")
        return value

    @property
    def most_tokens(self) -> int | None:
        """Tokens of the answer, at most."""
        return self.max_tokens

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with what it took."""
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(self) -> decoder_pb2.Sampling:
        """How tokens are chosen. Without a seed, what is not greedy is another answer each time."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop
        seed = secrets.randbits(SEED_BITS) if self.seed is None else self.seed % 2**SEED_BITS
        return decoder_pb2.Sampling(
            max_tokens=self.most_tokens or 0,
            temperature=self.temperature or 0.0,
            top_p=max(self.top_p, LEAST_TOP_P) if self.top_p else 0.0,
            seed=seed,
            stop=stop or [],
        )


class CompletionBody(Completing):
    """A text to continue."""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=1)]
    best_of: Literal[1] | None = None
    echo: Literal[False] | None = None
    suffix: Literal[""] | None = None

    @field_validator("prompt", mode="before")
    @classmethod
    def _single(cls, value: Any) -> Any:
        if isinstance(value, list) and (len(value) != 1 or not isinstance(value[0], str)):
            raise ValueError("give one text a call: neither several prompts nor tokens are taken")
        return value

    def question(self) -> tuple[str, str]:
        """What the decoder alone reads before the question, and the question."""
        return "", self.prompt if isinstance(self.prompt, str) else self.prompt[0]


class Part(BaseModel):
    """A part of a message."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """A message of a chat."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]
    name: str | None = None
    refusal: None = None
    annotations: Empty | None = None
    audio: None = None
    function_call: None = None
    tool_calls: Empty | None = None

    @property
    def text(self) -> str:
        """What it says."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class ResponseFormat(BaseModel):
    """What an answer is."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]


class ChatBody(Completing):
    """A chat to answer."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Tokens | None = None
    response_format: ResponseFormat | None = None
    top_logprobs: Literal[0] | None = None
    tools: Empty | None = None
    functions: Empty | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: Flag | None = None
    metadata: dict[str, str] | None = None
    store: Flag | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @property
    def most_tokens(self) -> int | None:
        """Tokens of the answer, at most."""
        return self.max_completion_tokens or self.max_tokens

    def question(self) -> tuple[str, str]:
        """What the decoder alone reads before the question, and the question.

        Raises:
            BadRequest: the last message is not the user's.
        """
        last = self.messages[-1]
        if last.role != "user":
            raise BadRequest("the last message must be the user's: it is the question", "messages")
        before = [message.text for message in self.messages[:-1] if message.text.strip()]
        return "\n".join(before), last.text
