"""One random program under way: each step done to the banks and to their twin, and compared."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, cast
from unittest import mock

from larimar.errors import LarimarError, Unavailable
from larimar.memory import (
    BankState,
    Kind,
    Payload,
    check_id,
    request_body,
)
from larimar.v1 import common_pb2
from services.follower import Follower
from services.log import Append, Log
from services.memory import branches
from services.memory.archives import Archivist
from services.memory.branches import Brancher
from services.memory.capacity import Capacity
from services.memory.erasure import Eraser, NoQueues
from services.memory.ledger import EraseLedger
from tests.program_data import BANKS, FACTS, VARIANTS, Program, config_of, written
from tests.twin import Bank, Done, Item, Refused, Twin

BUDGET = 1 << 30
BATCH = 2
"""Events of a merge that are appended together, so that even a small one can be cut short."""


class Difference(AssertionError):
    """The bank and its twin do not agree."""


class CutLog:
    """A log whose appends fail, for one caller, from a certain one on; all else passes."""

    def __init__(self, log: Log, appends: int, after: bool) -> None:
        self._log = log
        self._left = appends
        self._after = after
        self.cut = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def append(self, tenant: str, bank: str, *rest: Any) -> Any:
        """Appends; the last one is done, but not answered, where the log is cut after it."""
        if not self._left:
            self.cut = True
            if self._after:
                await self._log.append(tenant, bank, *rest)
            raise Unavailable("the store does not answer", "STORE_DOWN")
        self._left -= 1
        return await self._log.append(tenant, bank, *rest)


class Run:
    """One program under way, in a tenant's banks.

    Args:
        counts: what is added to: operations, comparisons, and what edits, erasures, forks and
            merges came to.
    """

    def __init__(self, log: Log, tenant: str, program: Program, counts: Counter[str]) -> None:
        self._log = log
        self._tenant = tenant
        self._program = program
        self._counts = counts
        self._ids = itertools.count()
        self._twin = Twin()
        self._sent: list[tuple[str, Item]] = []
        self._erasures: list[tuple[str, list[str], str]] = []
        self._merges: list[tuple[str, str, str, str]] = []
        self._config = config_of(program.addressing)
        self._followers: dict[str, Follower] = {}
        for part in ("memory", "scope"):
            self._start(part)

    def _start(self, part: str) -> None:
        self._followers[part] = Follower(self._log, (part,), BUDGET)
        if part == "memory":
            follower = self._followers[part]
            self._brancher = Brancher(self._log, follower, Capacity(follower))
            self._archivist = Archivist(self._log, follower)
            self._eraser = Eraser(self._log, follower, NoQueues(), EraseLedger(None))

    async def run(self) -> None:
        """Runs the steps, compares everything, and removes the banks. Raises: Difference."""
        await self._log.make_bank(self._tenant, "root", self._config)
        self._twin.make("root", self._config)
        for step in self._program.steps:
            run: Callable[..., Awaitable[None]] = getattr(self, f"_{step.name}")
            await run(*step.numbers)
            self._counts["operations"] += 1
        _same("banks", await self._log.banks(self._tenant), sorted(self._twin.banks))
        for name, bank in self._twin.banks.items():
            await self._same_log(name, bank)
            await self._same_head(name, bank)
            for part in ("memory", "scope"):
                await self._same_past(name, bank, part, self._program.steps[-1].numbers[0])
            rebuilt = await Follower(self._log, ("memory", "scope"), BUDGET).rebuilt(
                self._tenant, name
            )
            self._same_state(f"{name} rebuilt", rebuilt, bank, len(bank.entries))
        for name in sorted(self._twin.banks, key=lambda name: -len(self._lineage(name))):
            await self._log.drop_bank(self._tenant, name)

    def _lineage(self, name: str) -> list[str]:
        found, origin = [name], self._twin.banks[name].origin
        while origin is not None:
            found.append(origin[0])
            origin = self._twin.banks[origin[0]].origin
        return found

    # steps

    async def _write(self, b: int, f: int, v: int, *_: int) -> None:
        await self._append(self._pick(b), [self._item(f, v)])

    async def _forget(self, b: int, f: int, *_: int) -> None:
        name = self._pick(b)
        live = list(self._twin.banks[name].live())
        fact_id = live[f % len(live)] if live and f % 4 else FACTS[f % len(FACTS)]
        await self._append(name, [Item(self._new_id(), fact_id)])

    async def _batch(self, b: int, *numbers: int) -> None:
        items = [self._item(n, n // 7, forget=n % 3 == 0) for n in numbers]
        await self._append(self._pick(b), items)

    async def _resend(self, b: int, n: int, changed: int, elsewhere: int, *_: int) -> None:
        """An edit once more, under its event id; at times with another body, or to another bank."""
        if not self._sent:
            return
        name, item = self._sent[n % len(self._sent)]
        if changed % 3 == 0:
            item = self._item(n, changed, event_id=item.event_id)
        if elsewhere % 4 == 0 or name not in self._twin.banks:
            name = self._pick(b)
        await self._append(name, [item])

    async def _expect(self, b: int, f: int, v: int, off: int, *_: int) -> None:
        name = self._pick(b)
        item = self._item(f, v, forget=v % 3 == 0)
        expected = max(0, self._twin.banks[name].newest(item.fact_id) + (0, 0, 1, -1)[off % 4])
        await self._append(name, [dataclasses.replace(item, expected=expected)])

    async def _erase(self, b: int, count: int, *numbers: int) -> None:
        name = self._pick(b)
        known = sorted({entry.fact_id for entry in self._twin.banks[name].entries})
        among = known if known and count % 5 else FACTS
        ids = [among[n % len(among)] for n in numbers[: (1, 1, 2, 3)[count % 4]]]
        event_id = self._new_id()
        self._erasures.append((name, ids, event_id))
        await self._erase_facts(name, ids, event_id)

    async def _erase_again(self, n: int, changed: int, *_: int) -> None:
        if self._erasures:
            name, ids, event_id = self._erasures[n % len(self._erasures)]
            if name in self._twin.banks:
                ids = [*ids, FACTS[changed % len(FACTS)]] if changed % 3 == 0 else ids
                await self._erase_facts(name, ids, event_id)

    async def _fork(self, b: int, to: int, at: int, v: int, *_: int) -> None:
        free = [name for name in BANKS if name not in self._twin.banks]
        among = free if free and to % 8 else BANKS
        source, new = self._pick(b), among[to % len(among)]
        length = len(self._twin.banks[source].entries)
        version = v % (length + 2) if at % 2 else 0
        wanted = self._twin.fork(source, new, version)
        made = await _outcome(self._brancher.fork(self._tenant, source, new, version))
        self._count("fork", made)
        _same(f"fork {source} {new} {version}", made, wanted)

    async def _merge(self, s: int, t: int, policy: int, cut: int, after: int, *_: int) -> None:
        source = self._pick(s)
        family = sorted(self._twin.banks[source].family.banks)
        others = [name for name in (family if t % 16 else BANKS) if name != source]
        if not others:
            return await self._fork(s, t, policy, cut)
        target = others[t % len(others)]
        if target not in self._twin.banks:
            return
        name = branches.POLICIES[policy % 3]
        merge = (source, target, name, self._new_id())
        self._merges.append(merge)
        await self._combine(*merge, appends=(0, 1, 9, 9)[cut % 4], after=bool(after % 2))

    async def _merge_again(self, n: int, other: int, *_: int) -> None:
        if self._merges:
            source, target, policy, merge_id = self._merges[n % len(self._merges)]
            if {source, target} <= self._twin.banks.keys():
                policy = branches.POLICIES[other % 3] if other % 5 == 0 else policy
                await self._combine(source, target, policy, merge_id, 9, False)

    async def _checkpoint(self, b: int, part: int, *_: int) -> None:
        name = self._pick(b)
        bank = self._twin.banks[name]
        follower = self._followers["scope" if part % 3 == 0 else "memory"]
        version, digest, size = await follower.save_checkpoint(self._tenant, name)
        _same("checkpoint", (version, digest), (len(bank.entries), bank.digest()))
        assert size > 0

    async def _damage(self, b: int, part: int, how: int, place: int, *_: int) -> None:
        """Damages or deletes a checkpoint, and starts its follower anew."""
        name = self._pick(b)
        which = "scope" if part % 3 == 0 else "memory"
        found = await self._log.checkpoints(self._tenant, name, which)
        if found:
            version, meta = found[place % len(found)]
            blob = bytearray(await self._log.get_checkpoint(self._tenant, name, which, version))
            if how % 4 == 0:
                await self._log.remove_checkpoints(self._tenant, name, version + 1)
            else:
                if how % 4 == 1:
                    blob = blob[: place % len(blob)]
                else:
                    blob[place % len(blob)] ^= 1 << how % 8
                count = len(self._twin.banks[name].family.erased)
                await self._log.put_checkpoint(
                    self._tenant, name, which, version, bytes(blob), meta, count
                )
        self._start(which)

    async def _restart(self, part: int, *_: int) -> None:
        self._start("scope" if part % 3 == 0 else "memory")

    async def _drop(self, b: int, *_: int) -> None:
        name = self._pick(b)
        if len(self._twin.banks) > 1:
            dropped = await _outcome(self._log.drop_bank(self._tenant, name))
            _same(f"drop {name}", dropped, self._twin.drop(name))
            self._count("drop", dropped)

    async def _archive(self, b: int, to: int, *_: int) -> None:
        source, new = self._pick(b), BANKS[to % len(BANKS)]
        dumped = [message async for message in self._archivist.dump(self._tenant, source)]
        header: common_pb2.ArchiveHeader = dumped[0].header
        bank = self._twin.banks[source]
        _same("archive", (header.version, header.digest), (len(bank.entries), bank.digest()))
        if new in self._twin.banks:
            return
        for _turn in range(1 + b % 2):  # twice: each call may be repeated
            for message in dumped:
                await self._archivist.load(self._tenant, new, list(message.records))
        digest, made = await self._archivist.finish(self._tenant, new, header)
        _same("archive", (digest, made), (bank.digest(), True))
        self._twin.copy(source, new)

    async def _look(self, b: int, *_: int) -> None:
        name = self._pick(b)
        await self._same_head(name, self._twin.banks[name])

    async def _look_back(self, b: int, v: int, part: int, *_: int) -> None:
        name = self._pick(b)
        which = "scope" if part % 3 == 0 else "memory"
        await self._same_past(name, self._twin.banks[name], which, v)

    # what steps share

    def _pick(self, number: int) -> str:
        names = sorted(self._twin.banks)
        return names[number % len(names)]

    def _new_id(self) -> str:
        return f"event-{next(self._ids)}"

    def _item(self, f: int, v: int, forget: bool = False, event_id: str = "") -> Item:
        fact_id = FACTS[f % len(FACTS)]
        fact, _ = written(self._program.addressing, fact_id, v % VARIANTS)
        return Item(event_id or self._new_id(), fact_id, None if forget else fact)

    async def _append(self, name: str, items: list[Item]) -> None:
        self._sent += [(name, item) for item in items]
        wanted = self._twin.append(name, items)
        appends = [self._as_append(item) for item in items]
        done = [
            Refused(one.error.reason) if one.error else Done(one.version, one.duplicate)
            for one in await self._log.append(self._tenant, name, appends)
        ]
        _same(f"append to {name}", done, wanted)
        for one in done:
            self._count("duplicate" if one[-1] is True else "edit", one)

    def _as_append(self, item: Item) -> Append:
        check_id("fact_id", item.fact_id)
        if item.fact is None:
            body = request_body(Kind.FORGET, item.fact_id)
            return Append(Kind.FORGET, item.event_id, item.fact_id, body, None, item.expected)
        variant = int(item.fact.answer.split()[1])
        _, raw = written(self._program.addressing, item.fact_id, variant)
        said = Payload.from_bytes(raw)
        body = request_body(Kind.WRITE, item.fact_id, said.prompt, said.answer, said.rephrasings)
        return Append(Kind.WRITE, item.event_id, item.fact_id, body, raw, item.expected)

    async def _erase_facts(self, name: str, ids: list[str], event_id: str) -> None:
        wanted = self._twin.erase(name, ids, event_id)
        erased = await _outcome(self._eraser.erase(self._tenant, name, ids, event_id))
        self._count("erasure", erased)
        if isinstance(wanted, Refused):
            return _same(f"erase {ids} of {name}", erased, wanted)
        await asyncio.gather(*self._eraser._running.values())
        receipt = await self._eraser.receipt(self._tenant, name, event_id)
        _same("erase failed", (receipt.failure, receipt.scan.found), ("", 0))
        _same("erase", receipt.step, common_pb2.ERASE_STEP_DONE)
        return None

    async def _combine(
        self, source: str, target: str, policy: str, merge_id: str, appends: int, after: bool
    ) -> None:
        log = CutLog(self._log, appends, after)
        follower = self._followers["memory"]
        brancher = Brancher(cast(Log, log), follower, Capacity(follower))
        merge = brancher.merge(self._tenant, source, target, policy, merge_id, dry_run=False)
        with mock.patch.object(branches, "MERGE_BATCH", BATCH):
            found = await _outcome(merge)
        self._count("merge", found)
        if (target, merge_id) in self._twin.banks[target].family.plans:
            self._counts["merges that were called again"] += 1
        if log.cut:
            self._twin.merge(source, target, policy, merge_id, BATCH * (appends + after))
            return _same("cut merge", found, Refused("STORE_DOWN"))
        wanted = self._twin.merge(source, target, policy, merge_id)
        if not isinstance(found, Refused):
            conflicts = [conflict[0] for conflict in found.conflicts]
            self._counts["merges that changed something"] += found.written + found.forgotten > 0
            self._counts["merges with conflicts"] += bool(conflicts)
            self._counts["merges that were overtaken"] += bool(found.overtaken)
            found = (found.written, found.forgotten, conflicts, found.overtaken, found.version)
        _same(f"merge {source} into {target}, {policy}", found, wanted)
        return None

    def _count(self, what: str, outcome: Any) -> None:
        refused = f", {outcome.reason}" if isinstance(outcome, Refused) else ""
        self._counts[what + refused] += 1

    async def _same_log(self, name: str, bank: Bank) -> None:
        events, after = [], 0
        while page := await self._log.events(self._tenant, name, after, 1000):
            events += [(str(Kind(event.kind).name).lower(), event.fact_id) for event in page]
            after = page[-1].version
        _same(f"log of {name}", events, [(entry.kind, entry.fact_id) for entry in bank.entries])

    async def _same_head(self, name: str, bank: Bank) -> None:
        for part, follower in self._followers.items():
            async with follower.state(self._tenant, name) as state:
                self._same_state(f"{name}, {part}", state, bank, len(bank.entries))

    async def _same_past(self, name: str, bank: Bank, part: str, number: int) -> None:
        if not bank.entries:
            return
        version = 1 + number % len(bank.entries)
        async with self._followers[part].view(self._tenant, name, at_version=version) as view:
            self._same_state(f"{name} at {version}, {part}", view.state, bank, version)

    def _same_state(self, what: str, state: BankState, bank: Bank, version: int) -> None:
        facts = {fact_id: at for fact_id, (at, _) in state.facts.items()}
        wanted = {fact_id: at for fact_id, (at, _) in bank.live(version).items()}
        _same(f"facts of {what}", (state.version, facts), (version, wanted))
        _same(f"erased, {what}", state.erase_count, len(bank.family.erased))
        _same(f"digest of {what}", state.digest(), bank.digest(version))
        for part in state.parts:
            folded = state.folded_sha256(part)
            _same(f"folded bytes of {what}, {part}", folded, bank.folded(part, version))
            self._counts["comparisons"] += 1


async def _outcome(call: Awaitable[Any]) -> Any:
    try:
        return await call
    except LarimarError as error:
        return Refused(error.reason)


def _same(what: str, found: Any, wanted: Any) -> None:
    if found != wanted:
        raise Difference(f"{what}: {found!r} in place of {wanted!r}")
