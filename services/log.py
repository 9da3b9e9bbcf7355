"""The log of a bank: the port, and `MemoryLog`, the twin that lives in a process.

The log is the only writer. An entry is an event; versions are dense (1, 2, 3 ...), every
entry carries a chain value over the one before, and a payload lies beside its entry under
a salt of its own, so that deleting the payload leaves nothing to guess from. Every store
passes the same contract tests; services/redis_log.py is the durable one. Limits and the
errors of all of them are in services/log_rules.py.
"""

from __future__ import annotations

import hmac
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from larimar.errors import Conflict, LarimarError
from larimar.memory import (
    BankConfig,
    Event,
    Kind,
    decide,
    next_chain,
    request_hmac,
    salted_sha256,
)
from services.log_rules import (
    KEEP_CHECKPOINTS,
    MAX_BANKS,
    MAX_BATCH,
    MAX_BATCH_BYTES,
    MAX_CHECKPOINT_BYTES,
    MAX_EVENTS,
    MAX_PAGE,
    MAX_PAGE_BYTES,
    MAX_PAYLOAD_BYTES,
    SALT_BYTES,
    ChainBroken,
    bank_exists,
    bank_full,
    check_checkpoint,
    check_items,
    check_names,
    check_page,
    damaged,
    log_changed,
    too_many_banks,
    unknown_bank,
    unknown_checkpoint,
)

__all__ = [
    "KEEP_CHECKPOINTS",
    "MAX_BANKS",
    "MAX_BATCH",
    "MAX_BATCH_BYTES",
    "MAX_CHECKPOINT_BYTES",
    "MAX_EVENTS",
    "MAX_PAGE",
    "MAX_PAGE_BYTES",
    "MAX_PAYLOAD_BYTES",
    "Append",
    "Appended",
    "ChainBroken",
    "Log",
    "MemoryLog",
]


@dataclass(frozen=True, slots=True)
class Append:
    """One event to append."""

    kind: Kind
    event_id: str
    """Made by the client; the same id again is the same event."""
    fact_id: str
    body: bytes
    """`request_body` of what the client asked: decides between a duplicate and a conflict."""
    payload: bytes | None = None
    """`Payload.to_bytes()` of a WRITE; None for FORGET."""


@dataclass(frozen=True, slots=True)
class Appended:
    """What became of one item."""

    version: int
    """The event's version, also when it is a duplicate; 0 with an error."""
    duplicate: bool = False
    """Whether the event had been appended before."""
    error: LarimarError | None = None
    """Why this item alone was refused; it changed nothing."""


class Log(Protocol):
    """The banks' logs in one store.

    Any method raises Unavailable STORE_DOWN within a bounded time when the store cannot be
    reached (the next call connects again), InvalidArgument for a bad name, and NotFound
    UNKNOWN_BANK where it needs the bank and there is none. Every call is safe to retry.
    """

    async def make_bank(
        self, tenant: str, bank: str, config: BankConfig
    ) -> tuple[BankConfig, bool]:
        """The bank's configuration, and whether this call made it.

        Raises:
            Conflict: BANK_EXISTS, the name is taken by another configuration.
            ResourceExhausted: TOO_MANY_BANKS.
        """
        ...

    async def bank_config(self, tenant: str, bank: str) -> BankConfig:
        """The immutable configuration of a bank."""
        ...

    async def banks(self, tenant: str) -> list[str]:
        """Names of the tenant's banks, sorted."""
        ...

    async def drop_bank(self, tenant: str, bank: str) -> bool:
        """Removes a bank with everything in it; whether there was one."""
        ...

    async def append(self, tenant: str, bank: str, items: Sequence[Append]) -> list[Appended]:
        """Appends events atomically and durably; a result for each, in order.

        A refused item changes nothing and the others go on. Later items see earlier ones.

        Raises:
            InvalidArgument: past MAX_BATCH or MAX_BATCH_BYTES; nothing was appended.
            ResourceExhausted: STORE_FULL; nothing was appended.
            Unavailable: unknown whether it was appended: retry under the same event ids.
        """
        ...

    async def head(self, tenant: str, bank: str) -> tuple[int, str]:
        """Version and chain value of the newest entry; (0, "") when there is none."""
        ...

    async def tail(
        self, tenant: str, bank: str, after: int, limit: int, chain: str | None = None
    ) -> list[tuple[Event, bytes | None]]:
        """A page of entries after a version, with payloads; empty only at the head.

        Versions, chain and payload digests are checked. Ends early after MAX_PAGE entries or
        MAX_PAGE_BYTES.

        Args:
            chain: the chain value a follower holds at `after`, to be compared with the log's.

        Raises:
            ChainBroken: LOG_CHANGED, the log has no entry `after` or another one there
                (failover, restored backup, bank made anew): refold from nothing.
            DataLoss: a gap, a broken chain, a wrong digest or a missing payload; names the version.
        """
        ...

    async def events(self, tenant: str, bank: str, after: int, limit: int) -> list[Event]:
        """A page of entries without payloads; empty from the head on. Raises DataLoss as tail()."""
        ...

    async def payloads(self, tenant: str, bank: str, versions: Sequence[int]) -> list[bytes]:
        """The payloads of these WRITE events, checked. Raises DataLoss as tail()."""
        ...

    async def put_checkpoint(
        self, tenant: str, bank: str, version: int, blob: bytes, meta: dict[str, str]
    ) -> None:
        """Publishes a checkpoint, whole or not at all; keeps the newest KEEP_CHECKPOINTS."""
        ...

    async def checkpoints(self, tenant: str, bank: str) -> list[tuple[int, dict[str, str]]]:
        """Versions and meta of the checkpoints, newest first."""
        ...

    async def get_checkpoint(self, tenant: str, bank: str, version: int) -> bytes:
        """The blob of a checkpoint.

        Raises:
            NotFound: UNKNOWN_CHECKPOINT; a newer one may have replaced it.
            DataLoss: CHECKPOINT_DAMAGED; skip it for an older one or a full replay.
        """
        ...

    async def ping(self) -> None:
        """Returns if the store answers."""
        ...

    async def close(self) -> None:
        """Lets go of the store's connections."""
        ...


def settle_duplicate(item: Append, version: int, known_hmac: str, salt: bytes | None) -> Appended:
    """What an event id that is already in the log means for an item.

    Args:
        salt: of the stored payload, b"" for a FORGET, None when the payload is gone: then the
            two requests can no longer be compared.
    """
    if salt is not None and not hmac.compare_digest(request_hmac(salt, item.body), known_hmac):
        error = Conflict(
            f"event id {item.event_id!r} was used at version {version} for another request: "
            "take a new event id for a new edit, or repeat the first request unchanged"
        )
        return Appended(version=0, error=error)
    return Appended(version=version, duplicate=True)


@dataclass
class _Bank:
    """One bank of a MemoryLog; lists are indexed by version - 1."""

    config: BankConfig
    events: list[Event] = field(default_factory=list)
    salted: list[bytes] = field(default_factory=list)
    hmacs: list[str] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    checkpoints: dict[int, tuple[bytes, dict[str, str]]] = field(default_factory=dict)


class MemoryLog:
    """The log in this process: same semantics, nothing durable.

    Args:
        max_events: most events of one bank.
    """

    def __init__(self, max_events: int = MAX_EVENTS) -> None:
        self._banks: dict[tuple[str, str], _Bank] = {}
        self._max_events = max_events

    async def make_bank(
        self, tenant: str, bank: str, config: BankConfig
    ) -> tuple[BankConfig, bool]:
        """See Log."""
        check_names(tenant, bank)
        config.validate()
        held = self._banks.get((tenant, bank))
        if held is not None:
            if held.config != config:
                raise bank_exists(bank)
            return held.config, False
        if len(await self.banks(tenant)) >= MAX_BANKS:
            raise too_many_banks()
        self._banks[tenant, bank] = _Bank(config)
        return config, True

    async def bank_config(self, tenant: str, bank: str) -> BankConfig:
        """See Log."""
        return self._bank(tenant, bank).config

    async def banks(self, tenant: str) -> list[str]:
        """See Log."""
        check_names(tenant)
        return sorted(bank for owner, bank in self._banks if owner == tenant)

    async def drop_bank(self, tenant: str, bank: str) -> bool:
        """See Log."""
        check_names(tenant, bank)
        return self._banks.pop((tenant, bank), None) is not None

    async def append(self, tenant: str, bank: str, items: Sequence[Append]) -> list[Appended]:
        """See Log."""
        held = self._bank(tenant, bank)
        errors = check_items(items)
        return [
            self._append_one(bank, held, item) if error is None else Appended(0, error=error)
            for item, error in zip(items, errors, strict=True)
        ]

    def _append_one(self, bank: str, held: _Bank, item: Append) -> Appended:
        known = held.versions.get(item.event_id)
        if known is not None:
            salt = held.salted[known - 1][:SALT_BYTES]
            return settle_duplicate(item, known, held.hmacs[known - 1], salt)
        error = decide(item.kind, held.facts.get(item.fact_id))
        if error is not None:
            return Appended(0, error=error)
        version = len(held.events) + 1
        if version > self._max_events:
            return Appended(0, error=bank_full(bank, self._max_events))
        salted = b"" if item.payload is None else os.urandom(SALT_BYTES) + item.payload
        sha256 = salted_sha256(salted) if salted else ""
        entry = (version, item.kind, item.fact_id, item.event_id, time.time_ns() // 10**6, sha256)
        previous = held.events[-1].chain if held.events else ""
        held.events.append(Event(*entry, chain=next_chain(previous, *entry)))
        held.salted.append(salted)
        held.hmacs.append(request_hmac(salted[:SALT_BYTES], item.body))
        held.versions[item.event_id] = version
        held.facts[item.fact_id] = "live" if item.kind == Kind.WRITE else "forgotten"
        return Appended(version)

    async def head(self, tenant: str, bank: str) -> tuple[int, str]:
        """See Log."""
        events = self._bank(tenant, bank).events
        return (events[-1].version, events[-1].chain) if events else (0, "")

    async def tail(
        self, tenant: str, bank: str, after: int, limit: int, chain: str | None = None
    ) -> list[tuple[Event, bytes | None]]:
        """See Log."""
        held = self._bank(tenant, bank)
        limit = check_page(after, limit)
        if after > len(held.events):
            raise log_changed(bank, after)
        at_after = held.events[after - 1].chain if after else ""
        if chain is not None and chain != at_after:
            raise log_changed(bank, after)
        page: list[tuple[Event, bytes | None]] = []
        size = 0
        for event in held.events[after : after + limit]:
            salted = held.salted[event.version - 1]
            page.append((event, salted[SALT_BYTES:] if event.kind == Kind.WRITE else None))
            size += len(salted)
            if size >= MAX_PAGE_BYTES:
                break
        return page

    async def events(self, tenant: str, bank: str, after: int, limit: int) -> list[Event]:
        """See Log."""
        held = self._bank(tenant, bank)
        return held.events[after : after + check_page(after, limit)]

    async def payloads(self, tenant: str, bank: str, versions: Sequence[int]) -> list[bytes]:
        """See Log."""
        held = self._bank(tenant, bank)
        found = []
        for version in versions:
            if not 1 <= version <= len(held.events) or not held.salted[version - 1]:
                raise damaged(bank, version, "the payload is missing")
            found.append(held.salted[version - 1][SALT_BYTES:])
        return found

    async def put_checkpoint(
        self, tenant: str, bank: str, version: int, blob: bytes, meta: dict[str, str]
    ) -> None:
        """See Log."""
        checkpoints = self._bank(tenant, bank).checkpoints
        check_checkpoint(version, blob)
        checkpoints[version] = (bytes(blob), dict(meta))
        for old in sorted(checkpoints)[:-KEEP_CHECKPOINTS]:
            del checkpoints[old]

    async def checkpoints(self, tenant: str, bank: str) -> list[tuple[int, dict[str, str]]]:
        """See Log."""
        found = self._bank(tenant, bank).checkpoints
        return [(version, dict(found[version][1])) for version in sorted(found, reverse=True)]

    async def get_checkpoint(self, tenant: str, bank: str, version: int) -> bytes:
        """See Log."""
        found = self._bank(tenant, bank).checkpoints.get(version)
        if found is None:
            raise unknown_checkpoint(bank, version)
        return found[0]

    async def ping(self) -> None:
        """See Log."""

    async def close(self) -> None:
        """See Log."""

    def _bank(self, tenant: str, bank: str) -> _Bank:
        check_names(tenant, bank)
        held = self._banks.get((tenant, bank))
        if held is None:
            raise unknown_bank(bank)
        return held
