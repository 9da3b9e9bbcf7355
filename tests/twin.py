"""The plain twin of a store of banks: dictionaries, lists and whole numbers, nothing clever.

It states what every operation must come to, its result or the reason of its refusal, and what
every bank must fold to at every version. It shares no code with the log or the fold.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

from larimar.memory import BankConfig


@dataclass(frozen=True)
class Fact:
    """What a WRITE says, its vectors as whole numbers."""

    fact_id: str
    prompt: str
    answer: str
    rephrasings: tuple[str, ...]
    addresses: tuple[tuple[int, ...], ...]
    value: tuple[int, ...]
    scope: tuple[tuple[int, ...], ...]

    def packed(self) -> bytes:
        """The fact as the store keeps it."""
        header = {
            "addresses": [len(self.addresses), len(self.addresses[0])],
            "answer": self.answer,
            "bits": [_bits(*self.addresses), _bits(self.value), _bits(*self.scope)],
            "fact_id": self.fact_id,
            "prompt": self.prompt,
            "rephrasings": list(self.rephrasings),
            "scope": [len(self.scope), len(self.scope[0])],
            "value": [len(self.value)],
        }
        text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return (
            b"LRM2"
            + struct.pack("<I", len(text.encode()))
            + text.encode()
            + _packed(*self.addresses)
            + _packed(self.value)
            + _packed(*self.scope)
        )

    def said(self) -> tuple:
        """What the client asked for; two requests are one exactly if this is equal."""
        return ("write", self.fact_id, self.prompt, self.answer, self.rephrasings)


@dataclass(frozen=True)
class Item:
    """An edit as its client sends it; without a fact it forgets."""

    event_id: str
    fact_id: str
    fact: Fact | None = None
    expected: int | None = None

    def said(self) -> tuple:
        """As Fact.said."""
        return ("forget", self.fact_id) if self.fact is None else self.fact.said()


@dataclass(eq=False)
class Entry:
    """An entry of a log; forks share those of their origin."""

    kind: str
    fact_id: str
    event_id: str
    fact: Fact | None
    said: tuple


@dataclass(eq=False)
class Family:
    """What a bank and its forks share."""

    banks: dict[str, Bank] = field(default_factory=dict)
    erased: set[str] = field(default_factory=set)
    erasures: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    plans: dict[tuple[str, str], Plan] = field(default_factory=dict)
    met: dict[frozenset[str], Met] = field(default_factory=dict)


@dataclass(eq=False)
class Bank:
    """One bank."""

    name: str
    config: BankConfig
    family: Family
    entries: list[Entry] = field(default_factory=list)
    origin: tuple[str, int] | None = None

    def newest(self, fact_id: str, version: int | None = None) -> int:
        """The version of a fact's newest event, up to a version; 0 for none."""
        found = 0
        for number, entry in enumerate(self.entries[:version], start=1):
            if entry.fact_id == fact_id:
                found = number
        return found

    def live(self, version: int | None = None) -> dict[str, tuple[int, Fact]]:
        """The live facts at a version with the version of their WRITE; never an erased one."""
        live: dict[str, tuple[int, Fact]] = {}
        for number, entry in enumerate(self.entries[:version], start=1):
            live.pop(entry.fact_id, None)
            if entry.fact is not None and entry.fact_id not in self.family.erased:
                live[entry.fact_id] = (number, entry.fact)
        return dict(sorted(live.items()))

    def digest(self, version: int | None = None) -> str:
        """The digest of the state at a version."""
        config = json.dumps(
            asdict(self.config), sort_keys=True, separators=(",", ":"), ensure_ascii=False
        )
        hasher = hashlib.sha256(hashlib.sha256(config.encode()).hexdigest().encode())
        for fact_id, (_, fact) in self.live(version).items():
            name = fact_id.encode()
            hasher.update(struct.pack("<I", len(name)) + name)
            hasher.update(hashlib.sha256(fact.packed()).digest())
        return hasher.hexdigest()

    def sums(self, version: int | None = None) -> tuple[list[list[int]], list[list[int]]]:
        """C and B of a pinv or gaussian bank."""
        k, size = self.config.slots, self.config.value_size
        c_kk, b_kc = [[0] * k for _ in range(k)], [[0] * size for _ in range(k)]
        for _, fact in self.live(version).values():
            for a in fact.addresses:
                for i in range(k):
                    for j in range(k):
                        c_kk[i][j] += a[i] * a[j]
                    for j in range(size):
                        b_kc[i][j] += a[i] * fact.value[j]
        return c_kk, b_kc

    def folded(self, part: str, version: int | None = None) -> str:
        """SHA-256 of the folded bytes of a part of the state at a version."""
        facts = [fact for _, fact in self.live(version).values()]
        if part == "scope":
            data = b"".join(_int32(row) for fact in facts for row in fact.scope)
        elif self.config.addressing == "slots":
            data = b"".join(
                b"".join(_int32(row) for row in fact.addresses)
                + struct.pack("<q", len(fact.addresses))
                + _int32(fact.value)
                for fact in facts
            )
        else:
            data = b"".join(
                struct.pack(f"<{len(row)}q", *row) for table in self.sums(version) for row in table
            )
        return hashlib.sha256(data).hexdigest()


class Done(NamedTuple):
    """An edit that is in the log."""

    version: int
    duplicate: bool


class Refused(NamedTuple):
    """An operation that changed nothing."""

    reason: str


class Point(NamedTuple):
    """A bank at a version, and its last entry there."""

    bank: str
    version: int
    last: Entry | None


class Plan(NamedTuple):
    """A merge as it was when it began."""

    source: Point
    target: Point
    base: Point
    policy: str


class Met(NamedTuple):
    """Where two banks were last merged: the next merge's base, and both banks then."""

    base: Point
    ends: tuple[Point, Point]


class Combined(NamedTuple):
    """What a merge came to."""

    written: int
    forgotten: int
    conflicts: list[str]
    overtaken: list[str]
    version: int


class Twin:
    """The banks of one tenant."""

    def __init__(self) -> None:
        self.banks: dict[str, Bank] = {}

    def make(self, name: str, config: BankConfig) -> Bank:
        """A new bank."""
        return self._show(Bank(name, config, Family()))

    def append(self, name: str, items: Iterable[Item]) -> list[Done | Refused]:
        """What becomes of each edit of a batch."""
        return [self._append(self.banks[name], item) for item in items]

    def _append(self, bank: Bank, item: Item) -> Done | Refused:
        for version, entry in enumerate(bank.entries, start=1):
            if entry.event_id == item.event_id:
                gone = entry.kind == "write" and entry.fact_id in bank.family.erased
                if not gone and entry.said != item.said():
                    return Refused("CONFLICT")
                return Done(version, True)
        newest = bank.newest(item.fact_id)
        if item.fact_id in bank.family.erased:
            return Refused("ERASED")
        if item.expected is not None and item.expected != newest:
            return Refused("FACT_CHANGED")
        if item.fact is None and not newest:
            return Refused("UNKNOWN_FACT")
        if item.fact is None and bank.entries[newest - 1].kind != "write":
            return Refused("ALREADY_FORGOTTEN")
        kind = "forget" if item.fact is None else "write"
        bank.entries.append(Entry(kind, item.fact_id, item.event_id, item.fact, item.said()))
        return Done(len(bank.entries), False)

    def erase(self, name: str, fact_ids: Iterable[str], event_id: str) -> Refused | None:
        """Erases facts from a bank and all its family; None when they are erased."""
        bank, ids = self.banks[name], sorted(set(fact_ids))
        known = bank.family.erasures.get((name, event_id))
        if known is not None:
            return None if known == ids else Refused("CONFLICT")
        for fact_id in ids:
            if fact_id in bank.family.erased:
                return Refused("ERASED")
            if not bank.newest(fact_id):
                return Refused("UNKNOWN_FACT")
        bank.family.erasures[name, event_id] = ids
        for number, fact_id in enumerate(ids):
            each = event_id if len(ids) == 1 else f"{event_id}:{number}"
            others = [other for _, other in sorted(bank.family.banks.items()) if other is not bank]
            for one in (bank, *others):
                if one.newest(fact_id):
                    one.entries.append(Entry("erase", fact_id, each, None, ("erase", fact_id)))
            bank.family.erased.add(fact_id)
        return None

    def fork(self, source: str, new: str, version: int) -> bool | Refused:
        """Whether a fork was made; version 0 is the newest."""
        bank, taken = self.banks[source], self.banks.get(new)
        if not version:
            if taken and taken.family is bank.family and taken.origin and taken.origin[0] == source:
                return False
            version = len(bank.entries)
        if version > len(bank.entries):
            return Refused("VERSION_NOT_WRITTEN")
        owner = bank
        while owner.origin is not None and version < owner.origin[1]:
            owner = self.banks[owner.origin[0]]
        if taken is not None:
            same = taken.family is bank.family and taken.origin == (owner.name, version)
            return False if same else Refused("BANK_EXISTS")
        entries = bank.entries[:version]
        self._show(Bank(new, bank.config, bank.family, entries, (owner.name, version)))
        return True

    def drop(self, name: str) -> bool | Refused:
        """Whether there was such a bank."""
        bank = self.banks.get(name)
        if bank is None:
            return False
        if any(other.origin and other.origin[0] == name for other in bank.family.banks.values()):
            return Refused("HAS_FORKS")
        del self.banks[name], bank.family.banks[name]
        return True

    def copy(self, name: str, new: str) -> Bank:
        """A bank that was exported, and imported under a new name."""
        bank = self.banks[name]
        family = Family(erased=set(bank.family.erased))
        return self._show(Bank(new, bank.config, family, list(bank.entries)))

    def merge(
        self, source: str, target: str, policy: str, merge_id: str, most: int | None = None
    ) -> Combined | Refused:
        """What a merge comes to.

        Args:
            most: events after which it is cut short; the same merge id goes on with it.
        """
        ours, theirs = self.banks[target], self.banks[source]
        if ours.family is not theirs.family:
            return Refused("NOT_RELATED")
        plan = ours.family.plans.get((target, merge_id))
        if plan is None:
            base = self._base(theirs, ours)
            plan = Plan(_point(theirs), _point(ours), base, policy)
        elif (plan.source.bank, plan.policy) != (source, policy):
            return Refused("CONFLICT")
        elif not all(self._is_there(ours, point) for point in plan[:3]):
            return Refused("OTHER_HISTORY")
        before = self.banks[plan.base.bank].live(plan.base.version)
        mine, their = ours.live(plan.target.version), theirs.live(plan.source.version)
        taken, conflicts = [], []
        for fact_id in sorted(before.keys() | mine.keys() | their.keys()):
            was, have, give = (_content(side, fact_id) for side in (before, mine, their))
            if give not in (was, have):
                (taken if have == was else conflicts).append(fact_id)
        if conflicts and policy == "fail":
            return Refused("MERGE_CONFLICT")
        ours.family.plans[target, merge_id] = plan
        changed = sorted([*taken, *conflicts]) if policy == "theirs" else taken
        written = forgotten = 0
        overtaken = []
        for fact_id in changed[:most]:
            fact = their[fact_id][1] if fact_id in their else None
            expected = ours.newest(fact_id, plan.target.version)
            done = self._append(ours, Item(f"{merge_id}:{fact_id}", fact_id, fact, expected))
            if isinstance(done, Refused):
                overtaken.append(fact_id)
            elif fact is None:
                forgotten += 1
            else:
                written += 1
        if most is None:
            self._note_met(plan, ours)
        return Combined(written, forgotten, conflicts, overtaken, len(ours.entries))

    def _base(self, theirs: Bank, ours: Bank) -> Point:
        """Where two banks last met: a merge, or the last entry that both have."""
        met = self._met(theirs.name, ours)
        if met is not None:
            return met.base
        shared = 0
        for one, other in zip(ours.entries, theirs.entries, strict=False):
            if one is not other:
                break
            shared += 1
        return _point(ours, shared)

    def _met(self, theirs: str, ours: Bank) -> Met | None:
        met = ours.family.met.get(frozenset((theirs, ours.name)))
        return met if met and all(self._is_there(ours, end) for end in met.ends) else None

    def _is_there(self, ours: Bank, point: Point) -> bool:
        bank = ours.family.banks.get(point.bank)
        entries = [] if bank is None else bank.entries
        if not point.version:
            return True
        return len(entries) >= point.version and entries[point.version - 1] is point.last

    def _note_met(self, plan: Plan, ours: Bank) -> None:
        planned = {point.bank: point.version for point in plan[:2]}
        met = self._met(plan.source.bank, ours)
        if met is None or all(end.version <= planned[end.bank] for end in met.ends):
            pair = frozenset(planned)
            ours.family.met[pair] = Met(plan.source, (plan.source, _point(ours)))

    def _show(self, bank: Bank) -> Bank:
        self.banks[bank.name] = bank.family.banks[bank.name] = bank
        return bank


def _point(bank: Bank, version: int | None = None) -> Point:
    version = len(bank.entries) if version is None else version
    return Point(bank.name, version, bank.entries[version - 1] if version else None)


def _content(live: dict[str, tuple[int, Fact]], fact_id: str) -> Fact | None:
    return live[fact_id][1] if fact_id in live else None


def _bits(*rows: Sequence[int]) -> int:
    fits = all(-(1 << 15) <= number < 1 << 15 for row in rows for number in row)
    return 16 if fits else 32


def _packed(*rows: Sequence[int]) -> bytes:
    letter = "h" if _bits(*rows) == 16 else "i"
    return b"".join(struct.pack(f"<{len(row)}{letter}", *row) for row in rows)


def _int32(numbers: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(numbers)}i", *numbers)
