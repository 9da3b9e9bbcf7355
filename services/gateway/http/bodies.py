"""What requests hold: the models of their bodies, with the limits that the services check."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from fastapi import Path, Query
from google.protobuf.message import Message
from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from larimar.config import LEAST_TOP_P, MAX_TEMPERATURE, MOST_STOP_STRINGS
from larimar.memory import MAX_SLOTS
from larimar.passages import DOCUMENT_NAME, MAX_OFFSET, MAX_PASSAGE_WORDS
from larimar.v1 import common_pb2, decoder_pb2
from services.gateway.event_schemas import ID, VISIBLE
from services.gateway.recall import MAX_INGEST_CHARS
from services.inbox import LETTER_ID
from services.inbox import MAX_PAGE as MAX_LETTERS
from services.limits import (
    BANK_NAME,
    MAX_CANDIDATES,
    MAX_ERASE_FACTS,
    MAX_ID_BYTES,
    MAX_MERGE_ID_BYTES,
    MAX_PAGE,
    MAX_REPHRASINGS,
    MAX_TEXT_BYTES,
)

M = TypeVar("M", bound=Message)

LARGEST = 2**53 - 1
"""Of what the contract counts in 64 bits: every reader of JSON holds it exactly."""
LARGEST_COUNT = 2**31 - 1
"""Of what the contract counts in 32 bits."""

_NAME = rf"^{BANK_NAME}$"


def _whole(value: Any) -> Any:
    """A number without a fraction as an integer: JSON does not tell 3.0 from 3."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(_whole)
"""Of a strict integer."""

Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT_BYTES, pattern=VISIBLE)]
Id = Annotated[str, Field(max_length=MAX_ID_BYTES, pattern=ID)]
GivenId = Annotated[str, Field(min_length=1, max_length=MAX_ID_BYTES, pattern=ID)]
Name = Annotated[str, Field(max_length=63, pattern=_NAME)]
LetterId = Annotated[str, Field(max_length=41, pattern=rf"^{LETTER_ID}$")]
Version = Annotated[int, Field(ge=0, le=LARGEST, strict=True), WHOLE]
Flag = Annotated[bool, Field(strict=True)]
StopText = Annotated[str, Field(min_length=1, max_length=MAX_TEXT_BYTES)]

BankPath = Annotated[str, Path(max_length=63, pattern=_NAME, description="Name of a bank.")]
VersionQuery = Annotated[int, Query(ge=0, le=LARGEST, description="0 is the newest version.")]
AfterQuery = Annotated[
    int, Query(ge=0, le=LARGEST, description="Events after this version; 0 begins with the first.")
]
BankQuery = Annotated[str, Query(max_length=63, pattern=rf"^({BANK_NAME})?$")]
IdPath = Annotated[str, Path(min_length=1, max_length=MAX_ID_BYTES, pattern=ID)]
IdQuery = Annotated[str, Query(max_length=MAX_ID_BYTES, pattern=ID)]
PageSize = Annotated[
    int, Query(ge=0, le=MAX_PAGE, description="Most of a page; 0 takes the usual.")
]
PageToken = Annotated[
    str,
    Query(max_length=MAX_ID_BYTES, pattern=ID, description="`next_after` of the page before."),
]


class Body(BaseModel):
    """A JSON object that holds what it names and nothing else."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    def fill(self, message_type: type[M], **more: Any) -> M:
        """A message of the contract with the fields of this that have its names, and more."""
        names = message_type.DESCRIPTOR.fields_by_name
        given = {name: value for name, value in self if name in names and value is not None}
        return message_type(**{**given, **more})


class WriteBody(Body):
    """A fact to write."""

    prompt: Text
    answer: Text
    rephrasings: Annotated[list[Text], Field(max_length=MAX_REPHRASINGS)] = []
    fact_id: Id = Field("", description="Empty: made of the prompt.")
    event_id: Id = Field("", description="The idempotency key; empty: one is made.")
    encoder_digest: Annotated[str, Field(max_length=64, pattern="^[0-9a-f]*$")] = ""
    expected_version: Version | None = Field(
        None, description="Refused unless the fact's newest event has this version; 0: none."
    )


class CensorBody(Body):
    """A prompt to censor."""

    prompt: Text
    rephrasings: Annotated[list[Text], Field(max_length=MAX_REPHRASINGS)] = []
    fact_id: Id = Field("", description="The fact that is replaced; empty: made of the prompt.")
    event_id: Id = ""


class EraseBody(Body):
    """Facts to erase."""

    fact_ids: Annotated[list[GivenId], Field(min_length=1, max_length=MAX_ERASE_FACTS)]
    event_id: Id = ""


class Sampled(Body):
    """How tokens are chosen."""

    max_tokens: Annotated[int, Field(ge=1, le=LARGEST_COUNT, strict=True), WHOLE] | None = None
    temperature: Annotated[float, Field(ge=0, le=MAX_TEMPERATURE, strict=True)] = Field(
        0.0, description="0 takes the most probable token."
    )
    top_p: Annotated[float, Field(gt=0, le=1, strict=True)] = 1.0
    seed: Version = 0
    stop: Annotated[list[StopText], Field(max_length=MOST_STOP_STRINGS)] = []

    def sampling(self) -> decoder_pb2.Sampling:
        """The same for the decoder."""
        return self.fill(decoder_pb2.Sampling, top_p=max(self.top_p, LEAST_TOP_P))


class Question(Body):
    """What a bank is asked as of which version."""

    prompt: Text
    min_version: Version = Field(0, description="Refused where this is not written yet.")
    at_version: Version = Field(0, description="Answered as of this version; 0 is the newest.")
    no_memory: Flag = Field(False, description="Answered by the plain decoder.")
    allow_stale: Flag = Field(
        False, description="With the store down, answered from what a replica holds."
    )


class AskBody(Sampled, Question):
    """A question, and how it is answered."""

    stream: Flag = Field(False, description="Answered as server-sent events.")


class ScoreBody(Question):
    """A question and candidate answers to it."""

    candidates: Annotated[list[Text], Field(min_length=1, max_length=MAX_CANDIDATES)]


class RecallBody(Sampled):
    """A question to the documents of a bank."""

    prompt: Text
    document: Annotated[str, Field(pattern=rf"^({DOCUMENT_NAME})?$")] = ""
    at_version: Version = 0


class IngestBody(Body):
    """A document, or a piece of one."""

    document: Annotated[str, Field(pattern=rf"^{DOCUMENT_NAME}$")]
    text: Annotated[str, Field(max_length=MAX_INGEST_CHARS)] = Field(
        description="Empty ends the document: what it held from `offset` on is forgotten."
    )
    offset: Annotated[int, Field(ge=0, le=MAX_OFFSET - MAX_INGEST_CHARS, strict=True), WHOLE] = 0
    passage_words: Annotated[int, Field(ge=1, le=MAX_PASSAGE_WORDS, strict=True), WHOLE] | None = (
        None
    )


class SlotsBank(Body):
    """A bank to make that grows with its facts."""

    bank: Name
    addressing: Literal["slots"] = "slots"
    slots: Annotated[int, Field(ge=0, le=0, strict=True), WHOLE] = 0


class FixedBank(Body):
    """A bank to make that has K slots."""

    bank: Name
    addressing: Literal["pinv", "gaussian"]
    slots: Annotated[int, Field(ge=0, le=MAX_SLOTS, strict=True), WHOLE] = Field(
        0, description="K; 0 means 512."
    )


def _bank_tag(body: Any) -> str:
    fixed = isinstance(body, dict) and body.get("addressing", "slots") != "slots"
    return FixedBank.__name__ if fixed else SlotsBank.__name__


BankBody = Annotated[
    Annotated[SlotsBank, Tag(SlotsBank.__name__)] | Annotated[FixedBank, Tag(FixedBank.__name__)],
    Discriminator(_bank_tag),
]


def addressing_of(body: SlotsBank | FixedBank) -> Any:
    """The addressing of a bank to make as the contract counts it."""
    return common_pb2.Addressing.Value(f"ADDRESSING_{body.addressing.upper()}")


class ForkBody(Body):
    """A fork to make."""

    new_bank: Name
    at_version: Version = Field(0, description="The last version shared; 0 is the newest.")


class MergeBody(Body):
    """A merge into the bank of the path."""

    source: Name
    policy: Literal["fail", "ours", "theirs"] = "fail"
    merge_id: Annotated[str, Field(max_length=MAX_MERGE_ID_BYTES, pattern=ID)] = ""
    dry_run: Flag = False

    def kind(self) -> Any:
        """The policy as the contract counts it."""
        return common_pb2.MergePolicy.Value(f"MERGE_POLICY_{self.policy.upper()}")


class LettersBody(Body):
    """Dead letters to handle."""

    letter_ids: Annotated[list[LetterId], Field(min_length=1, max_length=MAX_LETTERS)]
