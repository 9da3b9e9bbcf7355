"""The banks of a `MemoryLog`: entries, families, and what may follow what."""

from __future__ import annotations

import hashlib
import os
import time
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field

from larimar.errors import LarimarError
from larimar.memory import (
    MAX_ID_BYTES,
    BankConfig,
    Event,
    Kind,
    decide,
    next_chain,
    request_hmac,
    salted_sha256,
)
from services.log import Append, Appended, Origin, Stored, settle_duplicate
from services.log_rules import (
    MAX_PAGE_BYTES,
    SALT_BYTES,
    check_page,
    damaged,
    fact_changed,
    log_changed,
)


@dataclass
class Entry:
    """An entry; forks share it, so a payload that goes is gone from all of them."""

    event: Event
    salted: bytes | None
    request_hmac: str


@dataclass
class Family:
    """What a bank and its forks share."""

    banks: dict[str, Bank] = field(default_factory=dict)
    erased: set[str] = field(default_factory=set)
    records: dict[str, str] = field(default_factory=dict)


@dataclass
class Bank:
    """One bank; entries are indexed by version - 1, a fork's include its origin's."""

    name: str
    config: BankConfig
    family: Family
    origin: Origin | None = None
    segments: list[int] = field(default_factory=list)
    """Fork points of its lineage, ascending: pages end there."""
    entries: list[Entry] = field(default_factory=list)
    facts: dict[str, int] = field(default_factory=dict)
    """The newest event's version of each fact: negative when that is no WRITE."""
    versions: dict[str, int] = field(default_factory=dict)
    checkpoints: dict[tuple[str, int], tuple[bytes, dict[str, str]]] = field(default_factory=dict)

    @property
    def head(self) -> tuple[int, str]:
        """Version and chain value of the newest entry."""
        return (len(self.entries), self.entries[-1].event.chain) if self.entries else (0, "")

    def status(self, fact_id: str) -> str | None:
        """What a fact is now, as `decide` wants it."""
        if fact_id in self.family.erased:
            return "erased"
        newest = self.facts.get(fact_id)
        return None if newest is None else "live" if newest > 0 else "forgotten"

    def add(self, entry: Entry) -> None:
        """Puts an entry behind the newest one, and into the indexes."""
        event = entry.event
        self.entries.append(entry)
        self.versions[event.event_id] = event.version
        self.facts[event.fact_id] = event.version if event.kind == Kind.WRITE else -event.version

    def free_id(self, event_id: str) -> str:
        """An event id that this bank has not yet, for an ERASE that began in another of its
        family: the given one, or followed by the bank's name; of bounded length."""
        while event_id in self.versions:
            if len(event_id.encode()) > MAX_ID_BYTES:
                event_id = hashlib.sha1(
                    (self.head[1] + event_id).encode(), usedforsecurity=False
                ).hexdigest()
            event_id += f"@{self.name}"
        return event_id

    def put(self, item: Append, event_id: str) -> int:
        """Appends an event; its version."""
        salted = None if item.payload is None else os.urandom(SALT_BYTES) + item.payload
        version, chain = self.head
        fields = (
            version + 1,
            item.kind,
            item.fact_id,
            event_id,
            time.time_ns() // 10**6,
            "" if salted is None else salted_sha256(salted),
        )
        previous = abs(self.facts.get(item.fact_id, 0))
        event = Event(*fields, next_chain(chain, *fields, previous), previous)
        salt = b"" if salted is None else salted[:SALT_BYTES]
        self.add(Entry(event, salted, request_hmac(salt, item.body)))
        return event.version

    def page(self, after: int, limit: int) -> list[Entry]:
        """Entries behind a version, up to a fork point at most."""
        place = bisect_right(self.segments, after)
        end = self.segments[place] if place < len(self.segments) else len(self.entries)
        return self.entries[after : min(after + limit, end)]


def known(held: Bank, item: Append) -> Appended | None:
    """What an item is whose event id the bank has already."""
    version = held.versions.get(item.event_id)
    if version is None:
        return None
    entry = held.entries[version - 1]
    salt = entry.salted and entry.salted[:SALT_BYTES]
    if entry.event.kind != Kind.WRITE or (salt is None and item.kind == Kind.ERASE):
        salt = b""
    return settle_duplicate(item, version, entry.request_hmac, salt)


def refusal(held: Bank, item: Append) -> LarimarError | None:
    """Why an item may not follow; None if it may."""
    status = held.status(item.fact_id)
    newest = abs(held.facts.get(item.fact_id, 0))
    if status != "erased" and item.expected is not None and item.expected != newest:
        return fact_changed(item.fact_id, newest, item.expected)
    return decide(item.kind, status)


def history(held: Bank, fact_id: str) -> Iterable[Entry]:
    """Every entry of a fact, newest first."""
    version = abs(held.facts.get(fact_id, 0))
    while version:
        entry = held.entries[version - 1]
        yield entry
        version = entry.event.previous


def payload_page(
    held: Bank, after: int, limit: int, chain: str | None
) -> list[tuple[Entry, bytes | None]]:
    """Entries behind a version with salt and payload; None where there is none any more."""
    limit = check_page(after, limit)
    if after > len(held.entries):
        raise log_changed(held.name, after)
    at_after = held.entries[after - 1].event.chain if after else ""
    if chain is not None and chain != at_after:
        raise log_changed(held.name, after)
    page: list[tuple[Entry, bytes | None]] = []
    size = 0
    for entry in held.page(after, limit):
        erased = entry.event.fact_id in held.family.erased
        salted = None if erased else entry.salted
        if salted is None and entry.event.kind == Kind.WRITE and not erased:
            raise damaged(held.name, entry.event.version, "the payload is missing")
        page.append((entry, salted))
        size += len(salted or b"")
        if size >= MAX_PAGE_BYTES:
            break
    return page


def check_stored(bank: str, held: Bank, stored: Stored) -> None:
    """Refuses an entry that does not follow from what is loaded. Raises DataLoss."""
    event, (version, chain) = stored.event, held.head
    fields = (event.version, event.kind, event.fact_id, event.event_id, event.time_ms)
    expected = next_chain(chain, *fields, event.payload_sha256, event.previous)
    known = event.event_id in held.versions
    previous = abs(held.facts.get(event.fact_id, 0))
    if event.version != version + 1 or event.chain != expected or known:
        raise damaged(bank, event.version, "the entry does not follow from the one before (chain)")
    if event.previous != previous:
        raise damaged(bank, event.version, f"the fact's event before has version {previous}")
    if stored.salted is not None and salted_sha256(stored.salted) != event.payload_sha256:
        raise damaged(bank, event.version, "the payload's bytes have changed (SHA-256 differs)")
