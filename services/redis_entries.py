"""How entries go into the scripts of a log in Redis, and how their answers are read."""

from __future__ import annotations

import os
from dataclasses import dataclass

from larimar.memory import Event, Kind, chain_over, decide, request_hmac, salted_sha256
from services.log import Append, Appended, Stored, settle_duplicate
from services.log_rules import SALT_BYTES, bank_full, damaged, fact_changed, id_taken
from services.redis_scripts import ITEM_ARGUMENTS

KINDS = {kind.value: kind for kind in Kind}
_STATES = {b"none": None, b"forgotten": "forgotten", b"erased": "erased"}
_PAGE_FIELDS = 9
"""Values of an entry as PAGE and HISTORY join them; the last says that its fact was erased."""


def append_arguments(item: Append) -> tuple[str | bytes, ...]:
    """What the append scripts take for one item; the salt is made here."""
    expected = "" if item.expected is None else str(item.expected)
    ids = (str(item.kind), item.event_id, item.fact_id)
    if item.payload is None:
        arguments = (*ids, request_hmac(b"", item.body), "", b"", expected)
    else:
        salt = os.urandom(SALT_BYTES)
        salted = salt + item.payload
        digests = (request_hmac(salt, item.body), salted_sha256(salted))
        arguments = (*ids, *digests, salted, expected)
    assert len(arguments) == ITEM_ARGUMENTS
    return arguments


def appended(
    bank: str, item: Append, answer: int | bytes | list[bytes], max_events: int
) -> Appended:
    """What an append script's answer for one item means."""
    if isinstance(answer, int):
        return Appended(answer)
    if isinstance(answer, list):
        version, known_hmac, kind, salt = answer
        # Without its payload a WRITE can no longer be compared; the others never had one.
        comparable = kind != b"W" or item.kind == Kind.ERASE  # which a WRITE never was
        compared = salt or (b"" if comparable else None)
        return settle_duplicate(item, int(version), known_hmac.decode(), compared)
    if answer == b"full":
        return Appended(0, error=bank_full(bank, max_events))
    if answer.startswith(b"taken:"):
        return Appended(0, error=id_taken(answer.partition(b":")[2].decode()))
    if answer.startswith(b"changed:"):
        newest = int(answer.partition(b":")[2])
        return Appended(0, error=fact_changed(item.fact_id, newest, item.expected))
    return Appended(0, error=decide(item.kind, _STATES[answer]))


def load_arguments(stored: Stored) -> tuple[str | bytes | int, ...]:
    """What the load script takes for one entry."""
    event = stored.event
    return (
        event.version,
        str(event.kind),
        event.event_id,
        event.fact_id,
        event.time_ms,
        event.payload_sha256,
        event.chain,
        event.previous,
        stored.request_hmac,
        stored.salted or b"",
    )


@dataclass
class RawPage:
    """What PAGE answers, with its entries checked."""

    events: list[Event]
    erased: list[bool]
    """For each event whether it is a WRITE of an erased fact."""
    at_after: str | None
    """Chain value at `after`, None when the log has no such entry."""
    erase_count: int
    owner: str
    """The bank whose payload keys these entries have."""
    payloads: list[bytes | None]
    """Salt and payload of each event, where they were asked for."""


def read_page(bank: str, answer: list, after: int) -> RawPage:
    """The page that PAGE answered with. Raises DataLoss: a gap, a broken chain, no entry."""
    text, erase_count, owner, must_have, *payloads = answer
    entries, at_after = _entries(bank, text, after)
    if must_have and not entries and at_after is not None:
        raise damaged(bank, after + 1, "the entry is missing")
    return RawPage(
        [event for event, _ in entries],
        [gone for _, gone in entries],
        at_after,
        erase_count,
        owner.decode(),
        payloads,
    )


def _entries(bank: str, text: bytes, after: int) -> tuple[list[tuple[Event, bool]], str | None]:
    """The entries behind `after`, and the chain value at it, None when there is no such entry."""
    try:
        fields = text.decode().split("\0") if text else []
    except UnicodeDecodeError as error:
        raise damaged(bank, after + 1, "an entry behind it is not text") from error
    at_after: str | None = None if after else ""
    if after and fields and fields[0] == str(after):
        at_after = fields[6]
        del fields[:_PAGE_FIELDS]
    chain, expected = at_after, after
    entries: list[tuple[Event, bool]] = []
    for i in range(0, len(fields), _PAGE_FIELDS):
        expected += 1
        entry = fields[i : i + _PAGE_FIELDS]
        event = read_event(bank, expected, entry)
        if chain is None or event.version != expected:
            raise damaged(bank, expected if chain is not None else after, "the entry is missing")
        chain = chain_over((chain, *entry[:6], entry[7]))
        if chain != event.chain:
            raise damaged(bank, expected, "the entry does not follow from the one before (chain)")
        entries.append((event, entry[8] == "1"))
    return entries, at_after


def read_event(bank: str, expected: int, fields: list[str]) -> Event:
    """An event from its joined values. Raises DataLoss, naming the version that was expected."""
    try:
        version, kind, fact_id, event_id, time_ms, sha256, chain, previous, _ = fields
        return Event(
            int(version), KINDS[kind], fact_id, event_id, int(time_ms), sha256, chain, int(previous)
        )
    except (ValueError, KeyError) as error:
        raise damaged(bank, expected, "the entry is malformed") from error


def check_salted(bank: str, version: int, sha256: str, salted: bytes | None) -> bytes:
    """Salt and payload as they were appended. Raises DataLoss."""
    if salted is None or not sha256:
        raise damaged(bank, version, "the payload is missing")
    if salted_sha256(salted) != sha256:
        raise damaged(bank, version, "the payload's bytes have changed (SHA-256 differs)")
    return salted
