"""A state machine over the memory service's calls, held against a dictionary."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from larimar.errors import LarimarError
from larimar.v1 import common_pb2, memory_pb2
from larimar.wire import config_to_proto, vector_to_bytes
from services.follower import Follower
from services.log import MemoryLog
from services.memory import erasure
from services.memory.service import MemoryService
from tests.banks import ADDRESSINGS, config_of

BUDGET = 1 << 24
FACTS = ("a", "b", "ä")
MAIN = "main"
NEW = ("fork", "copy")

facts = st.sampled_from(FACTS)
numbers = st.integers(0, 3)
banks = st.sampled_from((MAIN, *NEW))
places = st.integers(0, 1000)


class Side:
    """A bank as a dictionary at each version: what it held then."""

    def __init__(self, states: list[dict[str, int]], family: set[str], known: set[str]) -> None:
        self.states = states
        self.erased = family
        self.known = known

    def now(self) -> dict[str, int]:
        """Fact id -> number of its content."""
        return self.at(len(self.states) - 1)

    def at(self, version: int) -> dict[str, int]:
        """The same at a version."""
        return {fact: n for fact, n in self.states[version].items() if fact not in self.erased}

    def add(self, change: dict[str, int | None]) -> None:
        """One more version."""
        after = {**self.states[-1], **change}
        self.states.append({fact: n for fact, n in after.items() if n is not None})
        self.known |= change.keys()


class BankMachine(RuleBasedStateMachine):
    """Calls of a client, in any order."""

    addressing = "slots"

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.log = MemoryLog()
        self.ids = 0
        self.sides: dict[str, Side] = {}
        self.merged = False
        self._start()

    def _start(self) -> None:
        follower = Follower(self.log, ("memory", "scope"), BUDGET)
        self.service: Any = MemoryService(self.log, follower)

    def _run(self, work: Any) -> Any:
        async def refused() -> Any:
            try:
                return await work
            except LarimarError as error:
                return error.reason

        return self.loop.run_until_complete(refused())

    def _call(self, method: str, **fields: Any) -> Any:
        request = getattr(memory_pb2, f"{method}Request")(**fields)
        return self._run(getattr(self.service, method)(request, None))

    def _id(self) -> str:
        self.ids += 1
        return f"e{self.ids}"

    @initialize()
    def make(self) -> None:
        config = config_to_proto(MAIN, config_of(self.addressing))
        assert self._call("MakeBank", config=config).created
        assert not self._call("MakeBank", config=config).created
        self.sides[MAIN] = Side([{}], set(), set())

    @rule(bank=banks, items=st.lists(st.tuples(facts, st.none() | numbers), min_size=1, max_size=4))
    def append(self, bank: str, items: list[tuple[str, int | None]]) -> None:
        """Writes and forgets in one append, and the same append once more."""
        if bank not in self.sides:
            made = [_item(self._id(), *items[0])]
            assert self._call("Append", bank=bank, items=made) == "UNKNOWN_BANK"
            return
        side, wanted, sent = self.sides[bank], [], []
        for fact, number in items:
            sent.append(_item(self._id(), fact, number))
            live = side.now()
            if fact in side.erased:
                wanted.append("ERASED")
            elif number is None and fact not in live:
                wanted.append("ALREADY_FORGOTTEN" if fact in side.known else "UNKNOWN_FACT")
            else:
                side.add({fact: number})
                wanted.append(len(side.states) - 1)
        results = self._call("Append", bank=bank, items=sent).results
        assert [one.status.reason or one.version for one in results] == wanted
        assert not any(one.duplicate for one in results)
        kept = [item for item, result in zip(sent, results, strict=True) if result.version]
        again = self._call("Append", bank=bank, items=kept).results
        assert all(one.duplicate for one in again)
        assert [one.version for one in again] == [one for one in wanted if isinstance(one, int)]

    @rule(bank=banks, fact=facts, number=numbers, off=st.integers(-1, 1))
    def append_expecting(self, bank: str, fact: str, number: int, off: int) -> None:
        """Only where the fact's newest event is the one that the client knows."""
        if bank not in self.sides:
            return
        side = self.sides[bank]
        events = self._call("EnumerateEvents", bank=bank, fact_id=fact).events
        newest = max((event.version for event in events), default=0)
        item = _item(self._id(), fact, number)
        item.expected_version = max(0, newest + off)
        (result,) = self._call("Append", bank=bank, items=[item]).results
        if fact in side.erased:
            assert result.status.reason == "ERASED"
        elif item.expected_version != newest:
            assert result.status.reason == "FACT_CHANGED"
        else:
            side.add({fact: number})
            assert result.version == len(side.states) - 1

    @rule(bank=banks, ids=st.lists(facts, min_size=1, max_size=2))
    def erase(self, bank: str, ids: list[str]) -> None:
        """From a bank and its whole family, to the end of the work, and again."""
        if bank not in self.sides:
            return
        side, event_id = self.sides[bank], self._id()
        asked = {"bank": bank, "fact_ids": ids, "event_id": event_id}
        found = self._call("EraseFacts", **asked)
        for fact in sorted(set(ids)):
            if fact in side.erased or fact not in side.known:
                assert found == ("ERASED" if fact in side.erased else "UNKNOWN_FACT")
                return
        self.loop.run_until_complete(asyncio.gather(*self.service._eraser._running.values()))
        for fact in sorted(set(ids)):
            for one in self.sides.values():
                if one.erased is side.erased and fact in one.known:
                    one.add({fact: None})
        side.erased |= set(ids)
        receipt = self._call("DescribeErase", bank=bank, event_id=event_id).receipt
        assert (receipt.step, receipt.failure) == (common_pb2.ERASE_STEP_DONE, "")
        assert receipt.scan.found == 0 and all(one.replay_matches for one in receipt.banks)
        assert self._call("EraseFacts", **asked).receipt == receipt

    @precondition(lambda self: "fork" not in self.sides)
    @rule(place=places)
    def branch(self, place: int) -> None:
        """A fork at any version."""
        main = self.sides[MAIN]
        version = place % len(main.states)
        made = self._call("BranchBank", bank=MAIN, new_bank="fork", at_version=version)
        version = version or len(main.states) - 1
        assert made.created and made.info.origin.version == version
        events = self.loop.run_until_complete(self.log.events("default", "fork", 0, 1000))
        known = {event.fact_id for event in events}
        self.sides["fork"] = Side(main.states[: version + 1], main.erased, known)
        self.parted = version
        self.merged = False

    @precondition(lambda self: "fork" in self.sides and not self.merged)
    @rule(policy=st.sampled_from(["fail", "ours", "theirs"]), dry=st.booleans(), up=st.booleans())
    def combine(self, policy: str, dry: bool, up: bool) -> None:
        """What the fork changed, into the bank that it comes from; or the other way."""
        source, target = ("fork", MAIN) if up else (MAIN, "fork")
        ours, theirs, base = (
            self.sides[target].now(), self.sides[source].now(), self.sides[MAIN].at(self.parted)
        )  # fmt: skip
        changes: dict[str, int | None] = {}
        conflicts = []
        for fact in sorted(base.keys() | ours.keys() | theirs.keys()):
            was, have, give = base.get(fact), ours.get(fact), theirs.get(fact)
            if give in (was, have):
                continue
            if have != was:
                conflicts.append(fact)
            if have == was or policy == "theirs":
                changes[fact] = give
        number = getattr(common_pb2, f"MERGE_POLICY_{policy.upper()}")
        asked = {
            "source": source, "target": target, "policy": number,
            "merge_id": self._id(), "dry_run": dry,
        }  # fmt: skip
        done = self._call("CombineBanks", **asked)
        if conflicts and policy == "fail" and not dry:
            assert done == "MERGE_CONFLICT"
            return
        assert [one.fact_id for one in done.conflicts] == conflicts and not done.overtaken
        assert done.written == sum(change is not None for change in changes.values())
        assert done.forgotten == len(changes) - done.written
        if dry:
            return
        for fact, change in changes.items():
            self.sides[target].add({fact: change})
        assert done.version == len(self.sides[target].states) - 1
        self._call("CombineBanks", **asked)
        self.merged = True

    @precondition(lambda self: "copy" not in self.sides)
    @rule(bank=banks)
    def dump_and_load(self, bank: str) -> None:
        """Out and in under another name, each call twice."""
        if bank not in self.sides:
            return

        async def dumped() -> list[Any]:
            request = memory_pb2.DumpBankRequest(bank=bank)
            return [message async for message in self.service.DumpBank(request, None)]

        first, *rest = self.loop.run_until_complete(dumped())
        records = [record for message in rest for record in message.records]
        for part in (records[:2], records):
            self._call("LoadBank", header=first.header, records=part, bank="copy")
            assert "copy" not in [one.config.bank for one in self._call("EnumerateBanks").banks]
        loaded = self._call("LoadBank", header=first.header, bank="copy", last=True)
        assert loaded.digest == first.header.digest == self._call("ComputeDigest", bank=bank).digest
        side = self.sides[bank]
        self.sides["copy"] = Side(list(side.states), set(side.erased), set(side.known))

    @rule(bank=st.sampled_from(NEW))
    def drop(self, bank: str) -> None:
        """A bank that nothing comes from goes."""
        assert self._call("DropBank", bank=bank).existed == (bank in self.sides)
        self.sides.pop(bank, None)

    @rule(bank=banks, checkpoint=st.booleans())
    def restart(self, bank: str, checkpoint: bool) -> None:
        """All that is held is lost."""
        if checkpoint and bank in self.sides:
            saved = self._call("SaveCheckpoint", bank=bank)
            assert saved.version == len(self.sides[bank].states) - 1
        self._close()
        self._start()

    @rule(bank=banks, one=places, two=places)
    def compare(self, bank: str, one: int, two: int) -> None:
        """Two versions of one bank, or of two of them."""
        if bank not in self.sides:
            return
        side = self.sides[bank]
        old, new = one % len(side.states), two % len(side.states)
        new = new or len(side.states) - 1
        if not new:
            return
        found = self._call("CompareVersions", bank=bank, from_version=old, to_version=new)
        before, after = side.at(old) if old else {}, side.at(new)
        kinds = common_pb2.FactChange
        wanted = {
            fact: kinds.KIND_ADDED if fact not in before
            else kinds.KIND_REMOVED if fact not in after else kinds.KIND_CHANGED
            for fact in sorted(before.keys() | after.keys())
            if before.get(fact) != after.get(fact)
        }  # fmt: skip
        assert {change.fact_id: change.kind for change in found.changes} == wanted
        for change in found.changes:
            assert _number(change.before) == before.get(change.fact_id)
            assert _number(change.after) == after.get(change.fact_id)

    @rule(bank=banks, place=places)
    def look_back(self, bank: str, place: int) -> None:
        """Facts and digest of a past version; those of a version not written are refused."""
        if bank not in self.sides:
            return
        side = self.sides[bank]
        version = place % (len(side.states) + 1)
        if version == len(side.states):
            found = self._call("ComputeDigest", bank=bank, at_version=version)
            assert found == "VERSION_NOT_WRITTEN"
        elif version:
            assert self._facts(bank, version) == side.at(version)
            found = self._call("ComputeDigest", bank=bank, at_version=version)
            assert (found.version, found.facts) == (version, len(side.at(version)))

    @rule(bank=banks)
    def rebuild(self, bank: str) -> None:
        """The log from nothing gives the served digest and bytes."""
        if bank in self.sides:
            assert self._call("RebuildBank", bank=bank).matches

    @invariant()
    def every_bank_holds_what_its_dictionary_holds(self) -> None:
        digests: dict[tuple, str] = {}
        for bank, side in self.sides.items():
            assert self._facts(bank) == side.now()
            found = self._call("ComputeDigest", bank=bank)
            assert found.erase_count == len(side.erased)
            said = tuple(sorted(side.now().items()))
            assert digests.setdefault(said, found.digest) == found.digest, "equal sets of facts"
        assert len(set(digests.values())) == len(digests), "other sets of facts, other digests"

    def _facts(self, bank: str, version: int = 0) -> dict[str, int | None]:
        """Page by page."""
        found, after = {}, ""
        while True:
            page = self._call(
                "EnumerateFacts", bank=bank, at_version=version, page_size=2, after=after
            )
            found |= {fact.fact_id: _number(fact) for fact in page.facts}
            after = page.next_after
            if not after:
                assert page.total == len(found)
                return found

    def _close(self) -> None:
        self.loop.run_until_complete(self.service._eraser.close())
        self.loop.run_until_complete(self.service._follower.close())

    def teardown(self) -> None:
        self._close()
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()


def _item(event_id: str, fact: str, number: int | None) -> memory_pb2.AppendItem:
    if number is None:
        kind = common_pb2.EVENT_KIND_FORGET
        return memory_pb2.AppendItem(kind=kind, event_id=event_id, fact_id=fact)
    config, rng = config_of("slots"), np.random.default_rng([number, *fact.encode()])
    rows = 1 + number % 2

    def vector(size: int) -> bytes:
        return vector_to_bytes(rng.standard_normal(size).astype(np.float32))

    return memory_pb2.AppendItem(
        kind=common_pb2.EVENT_KIND_WRITE,
        event_id=event_id,
        fact_id=fact,
        prompt=f"what is {fact}?",
        answer=f"number {number}",
        rephrasings=["in other words"] * (rows - 1),
        prompt_latents=[vector(config.prompt_size) for _ in range(rows)],
        value=vector(config.value_size),
        scope_vectors=[vector(config.scope_size) for _ in range(rows)],
    )


def _number(fact: common_pb2.Fact) -> int | None:
    return int(fact.answer.split()[1]) if fact.answer else None


@pytest.mark.parametrize("addressing", ADDRESSINGS)
def test_a_bank_and_its_dictionary(addressing: str, monkeypatch) -> None:
    monkeypatch.setattr(erasure, "PAUSE_S", 1000.0)  # no worker looks for work by itself
    machine = type("Machine", (BankMachine,), {"addressing": addressing})
    bounds = settings(
        max_examples=80,
        stateful_step_count=30,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run = machine.TestCase
    run.settings = bounds
    run("runTest").runTest()
