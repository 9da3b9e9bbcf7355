"""Edit events: CloudEvents 1.0 envelopes that write, forget, censor or erase a fact.

One table, `EDIT_TYPES`, decides what an event may hold. The parser reads it, and so does the
document that describes the events to others (services/gateway/asyncapi.py).

Source: CloudEvents 1.0.2, the specification and its JSON event format.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from larimar.defaults import DEFAULT_BANK, default_fact_id
from larimar.errors import InvalidArgument, LarimarError
from larimar.v1.larimar_pb2 import CloudEvent

SPECVERSION = "1.0"
CONTENT_TYPE = "application/json"
REASON = "BAD_EVENT"
"""Reason of the error of an event that is no edit event."""
MAX_EVENT_BYTES = 64 * 1024
"""Bytes of an event: a fact of the longest texts that an encoder takes fills a tenth of it."""
MAX_ATTRIBUTE_BYTES = 1024
"""Bytes of one attribute of an envelope: CloudEvents asks intermediaries for no more."""


_OF_THE_EVENT = (3, 5, 6, 9)
"""gRPC's codes of errors that an event meets for its own sake: invalid, not found, conflict,
precondition."""


def is_transient(error: LarimarError) -> bool:
    """Whether the same event may be applied later: the fault is not its own."""
    return error.code not in _OF_THE_EVENT


@dataclass(frozen=True, slots=True)
class EditType:
    """What the data of one type of event holds."""

    kind: str
    """write, forget, censor or erase."""
    does: str
    """What the event does, in a sentence."""
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()


EDIT_TYPES: dict[str, EditType] = {
    "io.larimar.edit.write.v1": EditType(
        "write", "Writes a fact.", ("prompt", "answer"), ("fact_id", "rephrasings")
    ),
    "io.larimar.edit.forget.v1": EditType(
        "forget", "Removes a fact's contribution exactly.", ("fact_id",)
    ),
    "io.larimar.edit.censor.v1": EditType(
        "censor",
        'Writes "unknown" as the answer of a prompt.',
        ("prompt",),
        ("fact_id", "rephrasings"),
    ),
    "io.larimar.edit.erase.v1": EditType(
        "erase", "Erases a fact from a bank and all its forks.", ("fact_id",)
    ),
}
FIELDS: dict[str, tuple[type, str]] = {
    "prompt": (str, "What the fact is about."),
    "answer": (str, "How the prompt goes on."),
    "fact_id": (str, "The fact; a write or a censor without one is known by its prompt."),
    "rephrasings": (list, "The prompt in other words."),
}
"""Fields of the data of all types: text, or a list of texts."""
ATTRIBUTES = ("id", "source", "specversion", "type", "subject", "time", "datacontenttype")
"""Attributes that mean something here; extensions and `dataschema` may be there too."""
TRACE_ATTRIBUTES = ("traceparent", "tracestate")
"""The extension that names the trace in which an event was made. What is malformed is ignored."""

_EXTENSION = re.compile(r"[a-z0-9]+")
_JSON_TYPE = re.compile(r"(?:application|text)/(?:json|[\w.!#$&^-]+\+json)", re.ASCII)
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(?:\.\d+)?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII)
_TRACEPARENT = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[\x21-\x7e]*)?"
)
_BLANKS_OR_CONTROLS = re.compile(r"[\s\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class EditEvent:
    """An edit event, taken out of its envelope."""

    kind: str
    event_id: str
    bank: str
    fact_id: str = ""
    prompt: str = ""
    answer: str = ""
    rephrasings: tuple[str, ...] = ()
    trace: tuple[str, str] = ("", "")
    """The `traceparent` and `tracestate` of the trace in which it was made; empty without one."""


def bad_event(message: str) -> InvalidArgument:
    """The error of an event that is no edit event."""
    return InvalidArgument(message, REASON)


def parse_edit(event: CloudEvent) -> EditEvent:
    """The edit in an envelope.

    Raises:
        InvalidArgument: BAD_EVENT, saying what is wrong; no text of the event is in the message.
    """
    _check_envelope(event)
    edit_type = EDIT_TYPES.get(event.type)
    if edit_type is None:
        raise bad_event(f"type is none of {', '.join(EDIT_TYPES)}")
    data = _object(event.data, "data")
    known = (*edit_type.required, *edit_type.optional)
    for name in edit_type.required:
        if name not in data:
            raise bad_event(f"data of a {edit_type.kind} lacks the field {name!r}")
    for name, value in data.items():
        if name not in known:
            raise bad_event(
                f"data of a {edit_type.kind} has a field that is none of {', '.join(known)}"
            )
        _check_field(name, value)
    return EditEvent(
        edit_type.kind,
        event.id,
        event.subject or DEFAULT_BANK,
        data.get("fact_id", ""),
        data.get("prompt", ""),
        data.get("answer", ""),
        tuple(data.get("rephrasings", ())),
        _trace_of(event),
    )


def _trace_of(event: CloudEvent) -> tuple[str, str]:
    """The trace context of an event, if it has a well-formed one.

    Source: W3C Trace Context, section 3.2; the distributed tracing extension of CloudEvents.
    """
    found = _TRACEPARENT.fullmatch(event.traceparent)
    sizes = (len(event.traceparent), len(event.tracestate.encode()))
    if found is None or max(sizes) > MAX_ATTRIBUTE_BYTES:
        return ("", "")
    if found[1] == "00" and found[2] is not None:  # only later versions may say more
        return ("", "")
    return (event.traceparent, event.tracestate)


def _check_envelope(event: CloudEvent) -> None:
    for name in ATTRIBUTES:
        if len(getattr(event, name).encode()) > MAX_ATTRIBUTE_BYTES:
            raise bad_event(f"attribute {name} has more than {MAX_ATTRIBUTE_BYTES} bytes")
    if len(event.data) > MAX_EVENT_BYTES:
        raise bad_event(f"data has {len(event.data)} bytes, the limit is {MAX_EVENT_BYTES}")
    for name in ("id", "source", "type"):
        if not getattr(event, name):
            raise bad_event(f"attribute {name} is missing or empty")
    if event.specversion not in ("", SPECVERSION):
        raise bad_event(f"specversion must be {SPECVERSION!r}")
    if _BLANKS_OR_CONTROLS.search(event.source):
        raise bad_event("source must be a URI reference")
    if event.time and not _is_time(event.time):
        raise bad_event("time must be an RFC 3339 timestamp")
    media_type = event.datacontenttype.partition(";")[0].strip().lower()
    if event.datacontenttype and not _JSON_TYPE.fullmatch(media_type):
        raise bad_event(f"datacontenttype must be {CONTENT_TYPE}")


def _is_time(text: str) -> bool:
    if not _TIME.fullmatch(text):
        return False
    try:
        datetime.fromisoformat(text.upper())
    except ValueError:
        return False
    return True


def _check_field(name: str, value: Any) -> None:
    if FIELDS[name][0] is str:
        if not isinstance(value, str):
            raise bad_event(f"field {name!r} must be a text")
        if not value.strip():
            raise bad_event(f"field {name!r} is empty")
    elif not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise bad_event(f"field {name!r} must be a list of texts")


def _object(raw: bytes, what: str) -> dict[str, Any]:
    """The JSON object in some bytes: UTF-8, no name twice, no lone surrogates, no NaN."""
    try:
        value = json.loads(
            raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise bad_event(f"{what} is not UTF-8 at byte {error.start}") from None
    except UnicodeEncodeError:
        raise bad_event(f"{what} holds half a surrogate pair") from None
    except InvalidArgument as error:
        raise bad_event(f"{what} {error.message}") from None
    except (ValueError, RecursionError):
        raise bad_event(f"{what} is not JSON") from None
    if not isinstance(value, dict):
        raise bad_event(f"{what} is not a JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise bad_event("has a name twice")
    return found


def _no_constant(name: str) -> Any:
    raise bad_event(f"holds {name}, which is not JSON")


def from_json(raw: bytes) -> CloudEvent:
    """The envelope in CloudEvents' JSON format; its data is not looked at.

    Raises:
        InvalidArgument: BAD_EVENT, saying what is wrong.
    """
    if len(raw) > MAX_EVENT_BYTES:
        raise bad_event(f"the event has {len(raw)} bytes, the limit is {MAX_EVENT_BYTES}")
    fields = _object(raw, "the event")
    event = CloudEvent()
    if "specversion" not in fields:
        raise bad_event("attribute specversion is missing or empty")
    if "data" in fields and "data_base64" in fields:
        raise bad_event("the event has both data and data_base64")
    for name, value in fields.items():
        if name in ("data", "data_base64"):
            continue
        if value is None:  # an attribute that is not there
            continue
        if name in ATTRIBUTES:
            if not isinstance(value, str) or not value:
                raise bad_event(f"attribute {name} must be a text that is not empty")
            setattr(event, name, value)
        elif name in TRACE_ATTRIBUTES:
            setattr(event, name, value if isinstance(value, str) else "")
        elif not _EXTENSION.fullmatch(name):
            raise bad_event("an extension's name has other characters than a-z and 0-9")
        elif not isinstance(value, (str, bool, int)):
            raise bad_event("an extension's value must be a text, a number or a boolean")
    event.data = _data_bytes(fields)
    return event


def _data_bytes(fields: Mapping[str, Any]) -> bytes:
    if "data_base64" in fields:
        encoded = fields["data_base64"]
        try:
            return base64.b64decode(encoded.encode("ascii"), validate=True)
        except (AttributeError, UnicodeEncodeError, binascii.Error):
            raise bad_event("data_base64 is not base64") from None
    if "data" not in fields:
        raise bad_event("the event has no data")
    return json.dumps(fields["data"], ensure_ascii=False).encode()


def concerns(raw: bytes, bank: str, fact_ids: frozenset[str]) -> bool:
    """Whether an event in JSON format is about one of these facts, or cannot be told not to be.

    Every event about them counts, also one that would be refused for another fault; so does
    one that cannot be read, as it may hold anything.
    """
    named = named_fact(raw)
    return named is None or (named[0] == bank and named[1] in fact_ids)


def named_fact(raw: bytes) -> tuple[str, str] | None:
    """The bank and the fact that an event in JSON format is about, whatever else is wrong with it;
    None where it cannot be read."""
    try:
        fields = _object(raw, "the event")
        data = _object(_data_bytes(fields), "data")
    except InvalidArgument:
        return None
    subject = fields.get("subject") or DEFAULT_BANK
    fact_id, prompt = data.get("fact_id", ""), data.get("prompt", "")
    if not (isinstance(subject, str) and isinstance(fact_id, str) and isinstance(prompt, str)):
        return None
    return subject, fact_id or default_fact_id(prompt)


def concerned_fact(event: EditEvent) -> str:
    """The fact that an event is about."""
    return event.fact_id or default_fact_id(event.prompt)
