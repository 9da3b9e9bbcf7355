"""The inbox of a tenant: the port, and `MemoryInbox`, the twin that lives in a process.

Producers in the cluster append edit events; one consumer at a time takes them in order,
applies them, and settles each: it leaves the inbox, or moves to the dead letters with the
reason. services/redis_inbox.py is the durable inbox; both pass the same contract tests.
"""

from __future__ import annotations

import asyncio
import bisect
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from larimar.edit_events import MAX_EVENT_BYTES, concerns
from larimar.errors import InvalidArgument

MAX_PAGE = 500
"""Most entries or letters of one page: with 64 KiB each it stays below what a reader may hold."""
WARN_LENGTH = 100_000
"""Entries from which on the consumer warns: the store holds all of them in memory."""


LETTER_ID = r"[0-9]{1,20}-[0-9]{1,20}"
"""How the id of a letter is written: two numbers below ID_NUMBERS."""
ID_NUMBERS = 2**64 - 1
"""A store counts in 64 bits, and nothing can be asked for that comes after the very last."""
POLL_S = 0.005
"""How often the inbox in this process looks for an entry that is waited for."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An event that waits."""

    entry_id: str
    event: bytes
    """As it came; empty when the entry has no field of that name."""
    tries: int = 0
    """How often a consumer has taken it and not settled it."""


@dataclass(frozen=True, slots=True)
class Letter:
    """An event that could not be applied."""

    letter_id: str
    event: bytes
    """Cut to MAX_EVENT_BYTES; empty when it concerned an erased fact."""
    reason: str
    message: str
    tries: int
    time_ms: int
    entry_id: str


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of an entry."""

    entry_id: str
    death: Death | None = None
    """None when it was applied."""


@dataclass(frozen=True, slots=True)
class Death:
    """Why an event could not be applied."""

    event: bytes
    reason: str
    message: str
    tries: int


class Inbox(Protocol):
    """The inboxes and dead letters of all tenants in one store.

    Any method raises Unavailable within a bounded time when the store cannot be reached. Every
    call but `append` is safe to retry.
    """

    async def append(self, tenant: str, event: bytes) -> str:
        """Puts an event at the end, as a producer does; returns its entry id."""
        ...

    async def length(self, tenant: str) -> int:
        """Entries that wait, those in work included."""
        ...

    async def waited_s(self, tenant: str) -> float:
        """Seconds that the oldest entry has waited, those in work included; 0 without one."""
        ...

    async def hold(self, tenant: str, holder: str, lease_ms: int) -> bool:
        """Takes or renews the right to consume, for a time; False while another has it."""
        ...

    async def release(self, tenant: str, holder: str) -> None:
        """Gives the right back, when this holder has it."""
        ...

    async def take(self, tenant: str, count: int, wait_ms: int) -> list[Entry]:
        """Entries that nobody has taken yet, in order; waits for the first."""
        ...

    async def taken(self, tenant: str, after: str, count: int) -> list[Entry]:
        """Entries after an id that were taken and not settled, in order, and one more try each."""
        ...

    async def read(self, tenant: str, entry_ids: Sequence[str]) -> list[bytes | None]:
        """Events of entries; None for what has gone since."""
        ...

    async def settle(self, tenant: str, outcomes: Sequence[Settled]) -> int:
        """Takes entries out, and puts those that died among the dead letters; how many were
        still there. Atomic. An entry that has gone makes no letter."""
        ...

    async def letters(self, tenant: str, after: str, count: int) -> tuple[list[Letter], int]:
        """Dead letters after an id, oldest first, and how many there are in all.

        Raises: InvalidArgument, BAD_ID, here and below: no letter can have such an id.
        """
        ...

    async def requeue(self, tenant: str, letter_ids: Sequence[str]) -> int:
        """Moves letters back to the end of the inbox, atomically, in the order given; how many.
        Letters without an event stay."""
        ...

    async def drop(self, tenant: str, letter_ids: Sequence[str]) -> int:
        """Deletes letters; how many there were."""
        ...

    async def remove_facts(self, tenant: str, bank: str, fact_ids: Sequence[str]) -> int:
        """Deletes every entry and letter about these facts of a bank, and every one that cannot
        be read, as it may hold anything; how many. For an erasure, once the ids are retired."""
        ...

    async def close(self) -> None:
        """Ends all connections."""
        ...


def cut(event: bytes) -> bytes:
    """What a dead letter keeps of an event."""
    return event[:MAX_EVENT_BYTES]


def check_letter_id(letter_id: str) -> str:
    """The id of a letter. Raises: InvalidArgument, BAD_ID."""
    if not re.fullmatch(LETTER_ID, letter_id) or max(order(letter_id)) >= ID_NUMBERS:
        raise InvalidArgument("no such letter id: see `larimar dead list`", "BAD_ID")
    return letter_id


def order(entry_id: str) -> tuple[int, int]:
    """The place of an id such as ``1700000000000-3``; an empty one is before all."""
    major, _, minor = entry_id.partition("-")
    return int(major or 0), int(minor or 0)


class _Box:
    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.came_s: dict[str, float] = {}
        self.taken: set[str] = set()
        self.letters: dict[str, Letter] = {}
        self.lease: tuple[str, float] | None = None
        self.last = 0


class MemoryInbox:
    """An inbox in this process: what the durable one is held equal to."""

    def __init__(self) -> None:
        self._boxes: dict[str, _Box] = {}

    def _box(self, tenant: str) -> _Box:
        return self._boxes.setdefault(tenant, _Box())

    def _next(self, box: _Box) -> str:
        box.last += 1
        return f"{box.last}-0"

    async def append(self, tenant: str, event: bytes) -> str:
        """See Inbox."""
        box = self._box(tenant)
        entry_id = self._next(box)
        box.entries[entry_id] = Entry(entry_id, event)
        box.came_s[entry_id] = time.time()
        return entry_id

    async def length(self, tenant: str) -> int:
        """See Inbox."""
        return len(self._box(tenant).entries)

    async def waited_s(self, tenant: str) -> float:
        """See Inbox."""
        box = self._box(tenant)
        return max((time.time() - box.came_s[one] for one in box.entries), default=0.0)

    async def hold(self, tenant: str, holder: str, lease_ms: int) -> bool:
        """See Inbox."""
        box, now = self._box(tenant), time.monotonic()
        if box.lease and box.lease[0] != holder and box.lease[1] > now:
            return False
        box.lease = holder, now + lease_ms / 1000
        return True

    async def release(self, tenant: str, holder: str) -> None:
        """See Inbox."""
        box = self._box(tenant)
        if box.lease and box.lease[0] == holder:
            box.lease = None

    async def take(self, tenant: str, count: int, wait_ms: int) -> list[Entry]:
        """See Inbox."""
        box, ends = self._box(tenant), time.monotonic() + wait_ms / 1000
        while True:
            found = [one for entry_id, one in box.entries.items() if entry_id not in box.taken]
            if found or time.monotonic() >= ends:
                break
            await asyncio.sleep(POLL_S)
        for entry in found[:count]:
            box.taken.add(entry.entry_id)
            box.entries[entry.entry_id] = replace(entry, tries=1)
        return found[:count]

    async def taken(self, tenant: str, after: str, count: int) -> list[Entry]:
        """See Inbox."""
        box = self._box(tenant)
        ids = sorted(box.taken, key=order)
        ids = ids[bisect.bisect_right(ids, order(after), key=order) :][:count]
        found = [box.entries[entry_id] for entry_id in ids]
        for entry in found:
            box.entries[entry.entry_id] = replace(entry, tries=entry.tries + 1)
        return found

    async def read(self, tenant: str, entry_ids: Sequence[str]) -> list[bytes | None]:
        """See Inbox."""
        entries = self._box(tenant).entries
        return [entries[one].event if one in entries else None for one in entry_ids]

    async def settle(self, tenant: str, outcomes: Sequence[Settled]) -> int:
        """See Inbox."""
        box, settled = self._box(tenant), 0
        for outcome in outcomes:
            if outcome.entry_id not in box.taken:
                continue
            settled += 1
            box.taken.discard(outcome.entry_id)
            del box.entries[outcome.entry_id]
            death = outcome.death
            if death is not None:
                letter_id = self._next(box)
                box.letters[letter_id] = Letter(
                    letter_id,
                    cut(death.event),
                    death.reason,
                    death.message,
                    death.tries,
                    int(time.time() * 1000),
                    outcome.entry_id,
                )
        return settled

    async def letters(self, tenant: str, after: str, count: int) -> tuple[list[Letter], int]:
        """See Inbox."""
        letters, passed = self._box(tenant).letters, order(after and check_letter_id(after))
        found = [one for one in letters.values() if order(one.letter_id) > passed]
        return found[:count], len(letters)

    async def requeue(self, tenant: str, letter_ids: Sequence[str]) -> int:
        """See Inbox."""
        box, moved = self._box(tenant), 0
        for letter_id in [check_letter_id(one) for one in letter_ids]:
            letter = box.letters.get(letter_id)
            if letter is not None and letter.event:
                del box.letters[letter_id]
                await self.append(tenant, letter.event)
                moved += 1
        return moved

    async def drop(self, tenant: str, letter_ids: Sequence[str]) -> int:
        """See Inbox."""
        letters, dropped = self._box(tenant).letters, [check_letter_id(one) for one in letter_ids]
        return sum(letters.pop(letter_id, None) is not None for letter_id in dropped)

    async def remove_facts(self, tenant: str, bank: str, fact_ids: Sequence[str]) -> int:
        """See Inbox."""
        box, wanted = self._box(tenant), frozenset(fact_ids)
        entries = [
            entry_id
            for entry_id, entry in box.entries.items()
            if concerns(entry.event, bank, wanted)
        ]
        letters = [
            letter_id
            for letter_id, letter in box.letters.items()
            if letter.event and concerns(letter.event, bank, wanted)
        ]
        for entry_id in entries:
            box.taken.discard(entry_id)
            del box.entries[entry_id]
        for letter_id in letters:
            del box.letters[letter_id]
        return len(entries) + len(letters)

    async def close(self) -> None:
        """See Inbox."""
