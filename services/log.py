"""The log of a bank: the port that every store implements.

The log is the only writer. An entry is an event; versions are dense (1, 2, 3 ...), every
entry carries a chain value over the one before, and a payload lies beside its entry under
a salt of its own, so that deleting the payload leaves nothing to guess from. Every store
passes the same contract tests: services/redis_log.py is the durable one, `MemoryLog`
(services/memory_log.py, importable from here) its twin that lives in a process. Limits and
the errors of both are in services/log_rules.py.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from larimar.errors import Conflict, LarimarError
from larimar.memory import BankConfig, Event, Kind, request_hmac
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
    ChainBroken,
)

if TYPE_CHECKING:
    from services.memory_log import MemoryLog

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
    "Found",
    "Log",
    "MemoryLog",
    "Origin",
    "Page",
    "Stored",
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
    """`Payload.to_bytes()` of a WRITE; None for FORGET and ERASE."""
    expected: int | None = None
    """When given, refused (FACT_CHANGED) unless the fact's newest event in this bank has this
    version; 0: it has none."""


@dataclass(frozen=True, slots=True)
class Appended:
    """What became of one item."""

    version: int
    """The event's version, also when it is a duplicate; 0 with an error."""
    duplicate: bool = False
    """Whether the event had been appended before."""
    error: LarimarError | None = None
    """Why this item alone was refused; it changed nothing."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a log's tail."""

    entries: list[tuple[Event, bytes | None]]
    """Events with the payloads of WRITEs; None for FORGET, ERASE and what was erased since."""
    erase_count: int
    """Facts erased from the bank's family so far, read together with the entries."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a fork comes from."""

    bank: str
    version: int
    """The last version that the fork shares with that bank."""
    chain: str
    """Chain value at that version."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An entry with everything that belongs to it, as an archive keeps it."""

    event: Event
    salted: bytes | None
    """Salt and payload of a WRITE; None for FORGET, ERASE and what was erased."""
    request_hmac: str


@dataclass(frozen=True, slots=True)
class Found:
    """What a search of the store came to."""

    keys: int
    found: int
    """Keys in which one of the needles was found."""


class Log(Protocol):
    """The banks' logs in one store.

    A bank and all its forks are a family. They share the root's payloads and one set of erased
    facts: ERASE acts on the whole family. A fork's log is its origin's up to the fork point, and
    its own from there.

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

    async def tenants(self) -> list[str]:
        """Tenants that have banks, or had some, sorted. Cost: a walk over all keys of the store."""
        ...

    async def banks(self, tenant: str) -> list[str]:
        """Names of the tenant's banks, sorted."""
        ...

    async def drop_bank(self, tenant: str, bank: str, head: tuple[int, str] | None = None) -> bool:
        """Removes a bank with everything in it; whether there was one, or another call had begun
        to remove it and not come to the end.

        Args:
            head: version and chain value that the bank must have.

        Raises:
            FailedPrecondition: HAS_FORKS, or BANK_EDITED where it has another head; it stays.
        """
        ...

    async def append(
        self,
        tenant: str,
        bank: str,
        items: Sequence[Append],
        config: BankConfig | None = None,
    ) -> list[Appended]:
        """Appends WRITE and FORGET events atomically and durably; a result for each, in order.

        A refused item changes nothing and the others go on. Later items see earlier ones.

        Args:
            config: what the payloads are made for; None takes what the bank has.

        Raises:
            Unavailable: BANK_SWITCHED, the bank has another configuration by now; nothing was
                appended.
            InvalidArgument: past MAX_BATCH or MAX_BATCH_BYTES; nothing was appended.
            ResourceExhausted: STORE_FULL; nothing was appended.
            Unavailable: unknown whether it was appended: retry under the same event ids.
        """
        ...

    async def erase(self, tenant: str, bank: str, items: Sequence[Append]) -> list[Appended]:
        """Appends ERASE events: to this bank, and under the same event id to every other bank of
        its family that has an event of the fact. From then on no tail gives what the fact held.

        Each item is atomic over the family. A call that failed may have done some: repeat it under
        the same event ids. A result for each item, the version being this bank's; an item is
        refused with NotFound when this bank has no event of the fact, with FailedPrecondition
        ERASED when it was erased before under another event id. Where an event id was used for
        another request before this call, nothing is appended, and each item that is no duplicate
        gets Conflict.
        """
        ...

    async def erased(self, tenant: str, bank: str) -> frozenset[str]:
        """The fact ids erased from the bank's family; `Page.erase_count` is their number."""
        ...

    async def head(self, tenant: str, bank: str) -> tuple[int, str, int]:
        """Version and chain value of the newest entry, and the erase count; (0, "", n) at first."""
        ...

    async def tail(
        self, tenant: str, bank: str, after: int, limit: int, chain: str | None = None
    ) -> Page:
        """A page of entries after a version, with payloads; empty only at the head.

        Versions, chain and payload digests are checked. Ends early after MAX_PAGE entries or
        MAX_PAGE_BYTES, and at a fork point.

        Args:
            chain: the chain value a follower holds at `after`, to be compared with the log's.

        Raises:
            ChainBroken: LOG_CHANGED, the log has no entry `after` or another one there
                (failover, restored backup, bank made anew): refold from nothing.
            DataLoss: a gap, a broken chain, a wrong digest, or a payload missing that was not
                erased; names the version.
        """
        ...

    async def events(self, tenant: str, bank: str, after: int, limit: int) -> list[Event]:
        """A page of entries without payloads; empty from the head on. Raises DataLoss as tail()."""
        ...

    async def fact_events(self, tenant: str, bank: str, fact_id: str) -> list[Event]:
        """Every event of a fact in this bank's history, newest first; empty when there is none."""
        ...

    async def payloads(self, tenant: str, bank: str, versions: Sequence[int]) -> list[bytes]:
        """The payloads of these WRITE events, checked. Raises DataLoss as tail(), with the reason
        PAYLOAD_ERASED where the fact was erased."""
        ...

    async def remove_payloads(self, tenant: str, bank: str, fact_ids: Sequence[str]) -> int:
        """Deletes every payload that these erased facts ever had in the family; how many there
        were. Safe to repeat.

        Raises:
            FailedPrecondition: one of them is not erased; nothing was deleted.
        """
        ...

    async def fork(self, tenant: str, source: str, new: str, version: int) -> bool:
        """Makes a bank whose log is the source's up to a version; whether this call made it.

        Raises:
            FailedPrecondition: VERSION_NOT_WRITTEN.
            Conflict: BANK_EXISTS, the name is taken by anything but this very fork.
            ResourceExhausted: TOO_MANY_BANKS; TOO_MANY_FORKS, the family has MAX_FAMILY banks.
        """
        ...

    async def family(self, tenant: str, bank: str) -> dict[str, Origin | None]:
        """The banks of a bank's family with their origins, None for the root."""
        ...

    async def load(
        self,
        tenant: str,
        bank: str,
        entries: Sequence[Stored],
        source: str = "",
        replaces: bool = False,
    ) -> tuple[int, str]:
        """Puts entries into a bank that is being restored and that nobody can see yet: versions
        go on from what it has. Entries that it has already are compared by chain and skipped.

        Returns: version and chain value of the newest entry.

        Args:
            source: what the entries are made of; those of another source are swept first.
            replaces: the bank is to take the place of the one of its name, which serves meanwhile.

        Raises:
            Conflict: BANK_EXISTS, the bank is there.
            InvalidArgument: a fact id or event id that no log holds; nothing was loaded.
            DataLoss: an entry does not follow from the one before, or a payload is not its own.
        """
        ...

    async def sweep_loads(
        self, tenant: str, chains: Collection[str] = (), older_s: float | None = None
    ) -> list[str]:
        """Removes what was loaded into a tenant's banks and not published: its next load begins
        with nothing. Removes also all that is left of banks that were deleted or replaced half-way.
        Returns the chain values of the first entries, "" where there was none.

        Args:
            chains: of first entries; every load that begins with one of them goes.
            older_s: every load goes to which nothing came for so long.
        """
        ...

    async def publish(
        self,
        tenant: str,
        bank: str,
        config: BankConfig,
        erased: Sequence[str],
        version: int,
        source: str = "",
        replaces: tuple[int, str] | None = None,
    ) -> None:
        """Makes a bank visible that was loaded from this source.

        Args:
            replaces: version and chain value of the bank whose place it takes, in one step for all
                readers and writers; that bank is then removed.

        Raises: as `load`; DataLoss when its last version is another; FailedPrecondition
            BANK_EDITED when the bank that it replaces is not there any more, or HAS_FORKS.
        """
        ...

    async def stored(self, tenant: str, bank: str, after: int, limit: int) -> list[Stored]:
        """A page of entries for an archive. Raises as tail()."""
        ...

    async def put_checkpoint(
        self,
        tenant: str,
        bank: str,
        part: str,
        version: int,
        blob: bytes,
        meta: dict[str, str],
        erase_count: int,
    ) -> bool:
        """Publishes a checkpoint of a part of the state ("memory" or "scope"), whole or not at
        all; keeps the newest KEEP_CHECKPOINTS of each part. False, and nothing published, when
        facts were erased since `erase_count`, or when the log has no entry of that version with
        the chain value that `meta` names under "chain": the bank was made anew."""
        ...

    async def checkpoints(
        self, tenant: str, bank: str, part: str
    ) -> list[tuple[int, dict[str, str]]]:
        """Versions and meta of the checkpoints of a part, newest first."""
        ...

    async def get_checkpoint(self, tenant: str, bank: str, part: str, version: int) -> bytes:
        """The blob of a checkpoint.

        Raises:
            NotFound: UNKNOWN_CHECKPOINT; a newer one may have replaced it.
            DataLoss: CHECKPOINT_DAMAGED; skip it for an older one or a full replay.
        """
        ...

    async def remove_checkpoints(self, tenant: str, bank: str, before: int) -> int:
        """Deletes the checkpoints of versions below `before`, and every unpublished upload; how
        many checkpoints there were."""
        ...

    async def put_record(self, tenant: str, bank: str, name: str, text: str, new: bool) -> str:
        """Keeps a small text beside the bank's family under a name, and returns what is kept.

        Args:
            new: keep what is there already, if anything.
        """
        ...

    async def record(self, tenant: str, bank: str, name: str) -> str | None:
        """The text of a name, None when there is none."""
        ...

    async def remove_record(self, tenant: str, bank: str, name: str) -> None:
        """Takes the text of a name away, if there is one."""
        ...

    async def put_job(self, tenant: str, bank: str, name: str) -> None:
        """Notes that the record of this name describes unfinished work."""
        ...

    async def jobs(self) -> list[tuple[str, str, str]]:
        """Tenant, bank and name of all unfinished work in the store."""
        ...

    async def end_job(self, tenant: str, bank: str, name: str) -> None:
        """Takes work off the list."""
        ...

    async def search(self, tenant: str, bank: str, needles: Sequence[bytes]) -> Found:
        """Looks for byte strings in the value of every key of the bank's family, and of the
        tenant's queues."""
        ...

    async def rewrite_files(self) -> list[str] | None:
        """Has the store rewrite its files from what it holds, waits for it, and returns their
        paths; None where they are not on this machine. MemoryLog has none: an empty list."""
        ...

    async def files(self) -> list[str] | None:
        """Paths of the store's files as they are; None where they are not on this machine."""
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
        salt: of the stored payload, b"" for a FORGET or ERASE, None when the payload is gone:
            then the two requests can no longer be compared.
    """
    if salt is not None and not hmac.compare_digest(request_hmac(salt, item.body), known_hmac):
        error = Conflict(
            f"event id {item.event_id!r} was used at version {version} for another request: "
            "take a new event id for a new edit, or repeat the first request unchanged"
        )
        return Appended(version=0, error=error)
    return Appended(version=version, duplicate=True)


def __getattr__(name: str) -> Any:
    """`MemoryLog` on first use: it is built on what is defined here."""
    if name == "MemoryLog":
        from services.memory_log import MemoryLog

        return MemoryLog
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
