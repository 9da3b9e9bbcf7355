"""Requests out and results back: the one place where both clients touch the contract."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

from google.protobuf.message import Message

from larimar import results
from larimar.calls import MAX_MESSAGE_BYTES
from larimar.config import LEAST_TOP_P
from larimar.errors import InvalidArgument, LarimarError, NotFound
from larimar.passages import PIECE_CHARS, Passage, pieces
from larimar.v1 import common_pb2, decoder_pb2, larimar_pb2, memory_pb2

_ADDRESSINGS = {
    "slots": common_pb2.ADDRESSING_SLOTS,
    "pinv": common_pb2.ADDRESSING_PINV,
    "gaussian": common_pb2.ADDRESSING_GAUSSIAN,
}
_ADDRESSING_NAMES = {number: name for name, number in _ADDRESSINGS.items()}
_KIND_NAMES = {
    common_pb2.EVENT_KIND_WRITE: "WRITE",
    common_pb2.EVENT_KIND_FORGET: "FORGET",
    common_pb2.EVENT_KIND_ERASE: "ERASE",
}

M = TypeVar("M", bound=Message)
T = TypeVar("T")


def new_event_id() -> str:
    """An event id that nobody else has: the idempotency key of one call and its retries."""
    return uuid.uuid4().hex


def build(message_type: type[M], **values: Any) -> M:
    """A request with these fields; None and what is empty stay unset.

    Raises:
        InvalidArgument: naming the field that has the wrong type, is out of range or
            is no valid Unicode, or the size that is past the message limit.
    """
    message = message_type()
    for name, value in values.items():
        if value is None:
            continue
        field = message_type.DESCRIPTOR.fields_by_name[name]
        if field.is_repeated and (
            isinstance(value, str | bytes) or not isinstance(value, Sequence)
        ):
            raise InvalidArgument(f"{name} must be a list of texts, not {type(value).__name__}")
        try:
            message.MergeFrom(message_type(**{name: value}))
        except UnicodeEncodeError:
            raise InvalidArgument(f"{name} holds a character that is not Unicode text") from None
        except (TypeError, ValueError) as error:
            raise InvalidArgument(f"{name}: {error}") from None
    size = message.ByteSize()
    if size > MAX_MESSAGE_BYTES:
        raise InvalidArgument(
            f"the request has {size} bytes; at most {MAX_MESSAGE_BYTES} are sent",
            "MESSAGE_TOO_LARGE",
        )
    return message


def write_request(
    prompt: str,
    answer: str,
    bank: str,
    fact_id: str | None,
    event_id: str | None,
    rephrasings: Sequence[str],
    encoder_digest: str | None,
    expected_version: int | None = None,
) -> larimar_pb2.WriteRequest:
    """A WRITE; an event id is made when there is none."""
    return build(
        larimar_pb2.WriteRequest,
        bank=bank,
        prompt=prompt,
        answer=answer,
        rephrasings=rephrasings,
        fact_id=fact_id,
        event_id=event_id or new_event_id(),
        encoder_digest=encoder_digest,
        expected_version=expected_version,
    )


_FACT_FIELDS = ("prompt", "answer", "rephrasings", "fact_id", "event_id", "bank")


def write_request_of(fact: Any, bank: str, encoder_digest: str | None) -> larimar_pb2.WriteRequest:
    """A WRITE from one item of `write_many`: a mapping, or an object with such attributes."""
    if isinstance(fact, Mapping):
        given: dict[str, Any] = dict(fact)
        if "id" in given:
            given.setdefault("fact_id", given.pop("id"))
        unknown = sorted(str(name) for name in given.keys() - set(_FACT_FIELDS))
        if unknown:
            raise InvalidArgument(
                f"a fact has no field {unknown[0]!r}; known: id, {', '.join(_FACT_FIELDS)}"
            )
    else:
        given = {name: getattr(fact, name, None) for name in _FACT_FIELDS}
    for name in ("prompt", "answer"):
        if given.get(name) is None:
            raise InvalidArgument(f"a fact needs a field {name!r}")
    return write_request(
        given["prompt"],
        given["answer"],
        given.get("bank") or bank,
        given.get("fact_id"),
        given.get("event_id"),
        given.get("rephrasings") or (),
        encoder_digest,
    )


def sampling(
    max_tokens: int, temperature: float, top_p: float, seed: int, stop: Sequence[str]
) -> decoder_pb2.Sampling:
    """How to pick tokens; 0 and empty mean the service's defaults."""
    made = build(
        decoder_pb2.Sampling,
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        stop=stop,
    )
    if top_p and not made.top_p:
        made.top_p = LEAST_TOP_P
    return made


def ask_request(
    prompt: str,
    bank: str,
    sampling: decoder_pb2.Sampling,
    min_version: int,
    no_memory: bool,
    at: int,
    allow_stale: bool,
    noise: float,
    noise_seed: int,
) -> larimar_pb2.AskRequest:
    """A question to a bank, or to the plain decoder."""
    return build(
        larimar_pb2.AskRequest,
        bank=bank,
        prompt=prompt,
        sampling=sampling,
        min_version=min_version,
        no_memory=no_memory,
        at_version=at,
        allow_stale=allow_stale,
        noise=noise,
        noise_seed=noise_seed,
    )


def addressing_number(name: str) -> int:
    """The contract's number of an addressing; raises InvalidArgument for an unknown one."""
    if name not in _ADDRESSINGS:
        raise InvalidArgument(f"addressing {name!r} is unknown; one of {', '.join(_ADDRESSINGS)}")
    return _ADDRESSINGS[name]


def edit(
    response: larimar_pb2.WriteResponse | larimar_pb2.ForgetResponse | larimar_pb2.CensorResponse,
    own_event_id: bool,
) -> results.Edit:
    """An acknowledged edit; under an event id of this call's own it is no duplicate."""
    return results.Edit(
        fact_id=response.fact_id,
        event_id=response.event_id,
        version=response.version,
        bank=response.bank,
        duplicate=response.duplicate and not own_event_id,
    )


def answer(text: str, last: larimar_pb2.AskResponse) -> results.Answer:
    """An answer from its text and the last message of its stream.

    Raises:
        LarimarError: that message does not say where the answer came from.
    """
    if not last.HasField("provenance"):
        raise LarimarError("the answer ended without saying where it came from")
    return results.Answer(
        text=text,
        finish_reason=last.finish_reason,
        tokens=last.tokens,
        **_provenance(last.provenance),
    )


def _provenance(source: larimar_pb2.Provenance) -> dict[str, Any]:
    return {
        "in_scope": source.in_scope,
        "scope_score": source.scope_score,
        "fact_id": source.fact_id or None,
        "version": source.version,
        "bank": source.bank,
        "stale": source.stale,
    }


def score(candidates: Sequence[str], response: larimar_pb2.ScoreResponse) -> results.Score:
    """Scores in the order of the candidates."""
    return results.Score(
        candidates=tuple(
            results.CandidateScore(
                candidate=candidate,
                token_logprobs=tuple(one.token_logprobs),
                token_is_argmax=tuple(one.token_is_argmax),
            )
            for candidate, one in zip(candidates, response.scores, strict=True)
        ),
        **_provenance(response.provenance),
    )


def fact(message: common_pb2.Fact) -> results.Fact:
    """A live fact."""
    return results.Fact(
        fact_id=message.fact_id,
        prompt=message.prompt,
        answer=message.answer,
        version=message.version,
        rephrasings=tuple(message.rephrasings),
    )


def one_fact(response: larimar_pb2.ListFactsResponse, fact_id: str, bank: str) -> results.Fact:
    """The fact that was asked for; raises NotFound when it is not live."""
    if not response.facts:
        raise NotFound(f"no live fact {fact_id!r} in bank {bank!r}", "UNKNOWN_FACT")
    return fact(response.facts[0])


def event(message: common_pb2.Event) -> results.Event:
    """An entry of the log."""
    return results.Event(
        version=message.version,
        kind=_KIND_NAMES.get(message.kind, str(message.kind)),
        fact_id=message.fact_id,
        event_id=message.event_id,
        time_ms=message.time_ms,
        payload_sha256=message.payload_sha256,
        chain=message.chain,
        previous_version=message.previous_version,
        erased=message.erased,
    )


def bank_info(message: memory_pb2.BankInfo, created: bool = False) -> results.BankInfo:
    """A bank's configuration and counts."""
    counts = {"version": message.version, "facts": message.facts, "created": created}
    settings = {
        name: getattr(message.config, name)
        for name in _names(results.BankInfo)
        if name in message.config.DESCRIPTOR.fields_by_name
    }
    settings["addressing"] = _ADDRESSING_NAMES.get(message.config.addressing, "unknown")
    origin = plain(results.Origin, message.origin) if message.HasField("origin") else None
    return results.BankInfo(
        **settings,
        **counts,
        state_bytes=message.state_bytes,
        erase_count=message.erase_count,
        fill=message.fill,
        origin=origin,
        stopped=message.stopped,
    )


def plain(result_type: type[T], message: Message) -> T:
    """A result whose fields are those of the message with the same names."""
    return result_type(**{name: getattr(message, name) for name in _names(result_type)})


def _names(result_type: Any) -> list[str]:
    return [field.name for field in fields(result_type)]


def status(message: larimar_pb2.GetStatusResponse) -> results.Status:
    """What is running."""
    return results.Status(
        services=tuple(plain(results.ServiceInfo, one) for one in message.services),
        model_digest=message.model_digest,
        encoder_digest=message.encoder_digest,
        scope_digest=message.scope_digest,
        version=message.version,
    )


def ingest_requests(
    text: str, document: str, bank: str, passage_words: int
) -> Iterator[larimar_pb2.IngestRequest]:
    """A document in pieces, and last the end that forgets what a longer one left behind.

    Raises:
        InvalidArgument: the text is blank: a document is emptied by forgetting its passages.
    """
    if not text.strip():
        raise InvalidArgument(f"document {document!r} is empty: give it a text", "EMPTY_TEXT")
    for piece in (*pieces(text, PIECE_CHARS), Passage(len(text), "")):
        yield build(
            larimar_pb2.IngestRequest,
            bank=bank,
            document=document,
            text=piece.text,
            offset=piece.offset,
            passage_words=passage_words,
        )


def ingested(
    before: results.IngestResult | None,
    request: larimar_pb2.IngestRequest,
    response: larimar_pb2.IngestResponse,
) -> results.IngestResult:
    """How far a document has come with one more piece."""
    return results.IngestResult(
        bank=response.bank,
        document=response.document,
        passages=response.passages + (before.passages if before else 0),
        duplicates=response.duplicates + (before.duplicates if before else 0),
        characters=request.offset + len(request.text),
        version=response.version,
    )


def recalled(response: larimar_pb2.RecallResponse) -> results.RecallResult:
    """An answer from passages."""
    return results.RecallResult(
        text=response.text,
        passages=tuple(plain(results.Passage, one) for one in response.passages),
        levels=response.levels,
        version=response.version,
        bank=response.bank,
    )
