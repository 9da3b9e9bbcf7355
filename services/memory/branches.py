"""Forks, merges and what differs between two states: set operations on the facts of a family."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

from larimar.errors import Conflict, FailedPrecondition, InvalidArgument, NotFound
from larimar.memory import BankState, Kind, Payload, request_body
from larimar.payload import MAX_REPHRASINGS
from services.follower import Follower
from services.limits import MAX_MERGE_ID_BYTES
from services.log import Append, Log, Origin
from services.memory.capacity import Capacity
from services.threads import finished

MERGE_BATCH = 128
"""Events of a merge that are appended together."""
POLICIES = ("fail", "ours", "theirs")
OVERTAKEN = frozenset({"FACT_CHANGED", "ERASED"})
"""Reasons of a refusal that tell of an edit made since the plan."""
NAMED_CONFLICTS = 5
"""Conflicts that an error names; a dry run lists them."""


class Live(NamedTuple):
    """A live fact of a state: the version of its WRITE and its payload's SHA-256."""

    version: int
    sha256: bytes


Facts = dict[str, Live]
Change = tuple[str, Live | None, Live | None]
"""A fact that two states do not agree on: its id, and what each has of it."""


@dataclass(frozen=True)
class Point:
    """A bank at a version, and the chain value there: another bank under the name has another."""

    bank: str
    version: int
    chain: str


@dataclass(frozen=True)
class Plan:
    """A merge, decided before anything is appended; kept so that it resumes as it began."""

    source: Point
    target: Point
    base: Point
    policy: str


@dataclass(frozen=True)
class Met:
    """Where two banks were last merged."""

    base: Point
    """The base of the next merge."""
    ends: tuple[Point, ...]
    """Both banks, as the merge left them."""


@dataclass
class Merged:
    """What a merge came to."""

    plan: Plan
    written: int = 0
    forgotten: int = 0
    conflicts: list[tuple[str, int, int, int]] = field(default_factory=list)
    """(fact id, version in base, target and source; 0 where it is not live)."""
    overtaken: list[str] = field(default_factory=list)
    """Facts that changed in the target while the merge was applied: left alone."""
    version: int = 0


def three_way(base: Facts, ours: Facts, theirs: Facts) -> tuple[list[str], list[str]]:
    """The facts that only their side has changed, and those that both have, each differently.

    Both in order of fact id. A fact is what its payload says; when it was written does not count.
    """
    taken, conflicts = [], []
    for fact_id in sorted(base.keys() | ours.keys() | theirs.keys()):
        before, our, their = (_content(side, fact_id) for side in (base, ours, theirs))
        if their in (before, our):
            continue
        (taken if our == before else conflicts).append(fact_id)
    return taken, conflicts


def _facts_in(state: BankState) -> Facts:
    return {fact_id: Live(*held) for fact_id, held in state.facts.items()}


def _content(facts: Facts, fact_id: str) -> bytes | None:
    live = facts.get(fact_id)
    return live.sha256 if live else None


class Brancher:
    """Forks and merges banks over the log port and a follower of it."""

    def __init__(self, log: Log, follower: Follower, capacity: Capacity) -> None:
        self._log = log
        self._follower = follower
        self._capacity = capacity

    async def facts_at(self, tenant: str, bank: str, at_version: int = 0) -> tuple[Facts, int]:
        """The live facts of a bank at a version (0: the newest), and that version.

        Raises: as Follower.view.
        """
        if at_version < 0:
            raise InvalidArgument(f"version {at_version} is none: versions begin with 1")
        async with self._follower.view(tenant, bank, at_version=at_version) as view:
            return await finished(_facts_in, view.state), view.state.version

    async def fork(self, tenant: str, source: str, new: str, at_version: int) -> bool:
        """Makes a bank that shares a bank's history up to a version (0: the newest).

        Raises: as Log.fork.
        """
        if at_version < 0:
            raise InvalidArgument(f"version {at_version} is none: versions begin with 1")
        if not at_version:
            made = (await self._log.family(tenant, source)).get(new)
            if made is not None and made.bank == source:  # a retry: the head has moved on since
                return False
            at_version, _, _ = await self._log.head(tenant, source)
        return await self._log.fork(tenant, source, new, at_version)

    async def merge(
        self, tenant: str, source: str, target: str, policy: str, merge_id: str, dry_run: bool
    ) -> Merged:
        """Applies to the target what the source has changed since the two parted.

        The plan (versions, base and policy) is kept under the merge id before anything is
        appended, so a repeated call goes on where the first one stopped.

        Raises:
            FailedPrecondition: MERGE_CONFLICT under the policy "fail"; nothing was appended.
                NOT_RELATED, the banks have no history in common.
            ResourceExhausted: BANK_FULL, the target has no room for the rows; nothing was appended.
            Conflict: the merge id was used for another merge.
        """
        if policy not in POLICIES:
            raise InvalidArgument(f"the policy is one of {', '.join(POLICIES)}, not {policy!r}")
        if source == target:
            raise InvalidArgument("a bank cannot be merged into itself: name two banks")
        if not 1 <= len(merge_id.encode()) <= MAX_MERGE_ID_BYTES:
            raise InvalidArgument(f"a merge id has 1 to {MAX_MERGE_ID_BYTES} bytes")
        plan = await self._plan(tenant, source, target, policy, merge_id, dry_run)
        base, _ = await self._facts_of(tenant, plan.base)
        ours, _ = await self._facts_of(tenant, plan.target)
        theirs, _ = await self._facts_of(tenant, plan.source)
        taken, conflicts = await asyncio.to_thread(three_way, base, ours, theirs)
        merged = Merged(
            plan,
            conflicts=[
                (
                    fact_id,
                    _version(base, fact_id),
                    _version(ours, fact_id),
                    _version(theirs, fact_id),
                )
                for fact_id in conflicts
            ],
        )
        if conflicts and policy == "fail" and not dry_run:
            raise FailedPrecondition(
                f"{len(conflicts)} facts were changed in {source!r} and in {target!r}, the first: "
                f"{', '.join(conflicts[:NAMED_CONFLICTS])}; nothing was merged: merge again with "
                "the policy ours or theirs, or look at a dry run",
                "MERGE_CONFLICT",
            )
        changed = taken if policy != "theirs" else sorted([*taken, *conflicts])
        if dry_run:
            merged.written = sum(fact_id in theirs for fact_id in changed)
            merged.forgotten = len(changed) - merged.written
            merged.version = plan.target.version
            return merged
        await self._check_room(tenant, plan, [theirs[one] for one in changed if one in theirs])
        await self._apply(tenant, merged, changed, ours, theirs, merge_id)
        merged.version = await self._note_merged(tenant, plan)
        return merged

    async def _note_merged(self, tenant: str, plan: Plan) -> int:
        """Keeps where two banks met, with both chains: a bank made anew under either name has not
        met the other. A merge that is repeated after a later one leaves what that one noted.
        The target's version."""
        source, target = plan.source, plan.target
        now = await self._newest(tenant, target.bank)
        planned = {source.bank: source.version, target.bank: target.version}
        met = await self._met(tenant, source.bank, target.bank)
        if met is None or all(end.version <= planned[end.bank] for end in met.ends):
            name = _base_name(source.bank, target.bank)
            text = json.dumps(asdict(Met(source, (source, now))))
            await self._log.put_record(tenant, target.bank, name, text, new=False)
        return now.version

    async def _met(self, tenant: str, source: str, target: str) -> Met | None:
        """Where these two banks, not others under their names, were last merged; None if never."""
        kept = await self._log.record(tenant, target, _base_name(source, target))
        if kept is None:
            return None
        raw = json.loads(kept)
        met = Met(Point(**raw["base"]), tuple(Point(**end) for end in raw["ends"]))
        family = await self._log.family(tenant, target)
        if any(end.version < _first_version(family, end.bank) for end in met.ends):
            return None  # a fork made anew shares what the one before it had, and parted later
        return met if await self._are_there(tenant, met.ends) else None

    async def _newest(self, tenant: str, bank: str) -> Point:
        version, chain, _ = await self._log.head(tenant, bank)
        return Point(bank, version, chain)

    async def _are_there(self, tenant: str, points: Iterable[Point]) -> bool:
        """Whether all of these are in the logs that the banks have now."""
        for point in points:
            if point.version == 0:
                continue
            try:
                events = await self._log.events(tenant, point.bank, point.version - 1, 1)
            except NotFound:
                return False
            if not events or events[0].chain != point.chain:
                return False
        return True

    async def _facts_of(self, tenant: str, point: Point) -> tuple[Facts, int]:
        """The facts at a point, at which the bank may not have begun."""
        if point.version == 0:
            return {}, 0
        return await self.facts_at(tenant, point.bank, point.version)

    async def _plan(
        self, tenant: str, source: str, target: str, policy: str, merge_id: str, dry_run: bool
    ) -> Plan:
        name = f"merge:{target}:{merge_id}"
        kept = await self._log.record(tenant, target, name)
        if kept is None:
            there = await self._newest(tenant, source)
            here = await self._newest(tenant, target)
            plan = Plan(there, here, await self._base(tenant, there, here), policy)
            if dry_run or policy == "fail":  # which may be refused, and be tried again later
                return plan
            kept = await self._log.put_record(
                tenant, target, name, json.dumps(asdict(plan)), new=True
            )
        raw = json.loads(kept)
        points = {side: Point(**raw[side]) for side in ("source", "target", "base")}
        plan = Plan(**points, policy=raw["policy"])
        if (plan.source.bank, plan.policy) != (source, policy):
            raise Conflict(
                f"merge id {merge_id!r} names a merge of {plan.source.bank!r} under the policy "
                f"{plan.policy!r}: take a new merge id"
            )
        if not await self._are_there(tenant, points.values()):
            raise FailedPrecondition(
                f"one of the banks was made anew since merge {merge_id!r} began: take a new merge "
                "id",
                "OTHER_HISTORY",
            )
        return plan

    async def _base(self, tenant: str, source: Point, target: Point) -> Point:
        """Where two banks of a family parted, or were last merged."""
        family = await self._log.family(tenant, target.bank)
        if source.bank not in family:
            raise FailedPrecondition(
                f"{source.bank!r} and {target.bank!r} have no history in common: merge a fork into "
                "the bank that it comes from, or one of its other forks",
                "NOT_RELATED",
            )
        met = await self._met(tenant, source.bank, target.bank)
        if met is not None:
            return met.base
        ours = lineage(family, target.bank, target.version)
        theirs = lineage(family, source.bank, source.version)
        common = max(ours.keys() & theirs.keys(), key=list(ours).index)
        version = min(ours[common], theirs[common])
        events = await self._log.events(tenant, common, version - 1, 1) if version else []
        return Point(common, version, events[0].chain if events else "")

    async def _check_room(self, tenant: str, plan: Plan, written: Sequence[Live]) -> None:
        """Refuses a merge that could not be folded. One that was cut off counts all of its rows
        anew when it goes on: near the limit it needs room for them twice."""
        target = plan.target.bank
        most = len(written) * (1 + MAX_REPHRASINGS)
        if await self._capacity.refusal(tenant, target, most) is None:
            return
        rows = 0
        for start in range(0, len(written), MERGE_BATCH):
            versions = [live.version for live in written[start : start + MERGE_BATCH]]
            for raw in await self._log.payloads(tenant, plan.source.bank, versions):
                rows += 1 + len(Payload.from_bytes(raw).rephrasings)
        full = await self._capacity.refusal(tenant, target, rows)
        if full is not None:
            raise full

    async def _apply(
        self,
        tenant: str,
        merged: Merged,
        changed: Sequence[str],
        ours: Facts,
        theirs: Facts,
        merge_id: str,
    ) -> None:
        plan = merged.plan
        if plan.policy == "fail":  # nothing can refuse it any more
            name = f"merge:{plan.target.bank}:{merge_id}"
            await self._log.put_record(
                tenant, plan.target.bank, name, json.dumps(asdict(plan)), new=True
            )
        for start in range(0, len(changed), MERGE_BATCH):
            part = changed[start : start + MERGE_BATCH]
            versions = [theirs[fact_id].version for fact_id in part if fact_id in theirs]
            config = await self._log.bank_config(tenant, plan.source.bank)
            found = await self._log.payloads(tenant, plan.source.bank, versions)
            payloads = dict(zip(versions, found, strict=True))
            items = [
                _event(
                    _event_id(merge_id, fact_id),
                    fact_id,
                    payloads[theirs[fact_id].version] if fact_id in theirs else None,
                    await self._newest_event(tenant, plan.target, fact_id, ours),
                )
                for fact_id in part
            ]
            results = await self._log.append(tenant, plan.target.bank, items, config)
            self._capacity.note(tenant, plan.target.bank, results)
            for item, result in zip(items, results, strict=True):
                if result.error is not None:
                    if result.error.reason not in OVERTAKEN:
                        raise result.error
                    merged.overtaken.append(item.fact_id)
                elif item.payload is None:
                    merged.forgotten += 1
                else:
                    merged.written += 1
            await asyncio.sleep(0)

    async def _newest_event(self, tenant: str, target: Point, fact_id: str, ours: Facts) -> int:
        """The version of a fact's newest event in the target, as the plan saw it."""
        if fact_id in ours:
            return ours[fact_id].version
        events = await self._log.fact_events(tenant, target.bank, fact_id)
        return max(
            (event.version for event in events if event.version <= target.version), default=0
        )


def lineage(family: dict[str, Origin | None], bank: str, version: int) -> dict[str, int]:
    """The banks whose log a bank's log goes through, the root first, each with the last version
    that is shared; the bank itself last."""
    found: list[tuple[str, int]] = [(bank, version)]
    origin = family[bank]
    while origin is not None:
        shared = min(origin.version, found[-1][1])
        found.append((origin.bank, shared))
        origin = family[origin.bank]
    return dict(reversed(found))


def _first_version(family: dict[str, Origin | None], bank: str) -> int:
    """The version that a bank began with."""
    origin = family.get(bank)
    return origin.version if origin else 0


def changes(before: Facts, after: Facts) -> Iterable[Change]:
    """Facts that two states do not agree on, in order of fact id."""
    for fact_id in sorted(before.keys() | after.keys()):
        if _content(before, fact_id) != _content(after, fact_id):
            yield fact_id, before.get(fact_id), after.get(fact_id)


def _version(facts: Facts, fact_id: str) -> int:
    live = facts.get(fact_id)
    return live.version if live else 0


def _base_name(one: str, other: str) -> str:
    pair = "\0".join(sorted((one, other)))
    return "merge-base:" + hashlib.sha256(pair.encode()).hexdigest()[:24]


def _event_id(merge_id: str, fact_id: str) -> str:
    """The same whatever else is merged: a fact that is erased meanwhile renumbers no other."""
    return f"{merge_id}:{int(hashlib.sha256(fact_id.encode()).hexdigest()[:16], 16)}"


def _event(event_id: str, fact_id: str, raw: bytes | None, expected: int) -> Append:
    if raw is None:
        body = request_body(Kind.FORGET, fact_id)
        return Append(Kind.FORGET, event_id, fact_id, body, None, expected)
    payload = Payload.from_bytes(raw)
    body = request_body(Kind.WRITE, fact_id, payload.prompt, payload.answer, payload.rephrasings)
    return Append(Kind.WRITE, event_id, fact_id, body, raw, expected)
