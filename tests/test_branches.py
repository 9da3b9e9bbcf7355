"""Forks and merges over the log in this process: bases, policies, resumption, banks made anew."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from larimar import state as larimar_state
from larimar.errors import (
    Conflict,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from larimar.memory import Kind
from services.limits import MAX_MERGE_ID_BYTES
from services.log import MemoryLog, Origin
from services.memory import branches, capacity
from services.memory.branches import Brancher, Live, changes, lineage, three_way
from services.memory.capacity import Capacity
from tests.banks import ADDRESSINGS, config_of
from tests.following import (
    CONFIG,
    TENANT,
    both,
    erase_of,
    forget_of,
    noting_threads,
    state_of,
    write_of,
)

SIDES = st.dictionaries(st.sampled_from("abcd"), st.integers(0, 2))


def side(contents: dict[str, int], first: int = 1) -> dict[str, Live]:
    versions = range(first, first + len(contents))
    return {
        fact: Live(version, bytes([n]))
        for version, (fact, n) in zip(versions, contents.items(), strict=True)
    }


@given(base=SIDES, ours=SIDES, theirs=SIDES)
@settings(max_examples=300)
def test_three_way(base, ours, theirs) -> None:
    """Fact by fact, as the table says; when a fact was written does not count."""
    taken, conflicts = three_way(side(base), side(ours, 100), side(theirs, 200))
    for fact in "abcd":
        was, have, give = base.get(fact), ours.get(fact), theirs.get(fact)
        changed = (have != was, give != was)
        assert (fact in taken) == (changed == (False, True))
        assert (fact in conflicts) == (changed == (True, True) and have != give)
    assert [*taken] == sorted(taken) and [*conflicts] == sorted(conflicts)
    found = {fact: (old, new) for fact, old, new in changes(side(base), side(ours, 100))}
    assert found.keys() == {f for f in "abcd" if base.get(f) != ours.get(f)}


def test_lineage() -> None:
    family = {
        "root": None,
        "one": Origin("root", 10, "x"),
        "two": Origin("one", 12, "y"),
        "early": Origin("one", 4, "z"),
    }
    assert lineage(family, "two", 20) == {"root": 10, "one": 12, "two": 20}
    assert lineage(family, "early", 9) == {"root": 4, "one": 4, "early": 9}
    assert lineage(family, "root", 3) == {"root": 3}


class Banks:
    """A log, and what is done with it in short words."""

    def __init__(self, addressing: str = "slots") -> None:
        self.log: Any = MemoryLog()
        self.config = config_of(addressing)
        self.follower = both(self.log)
        self.brancher = Brancher(self.log, self.follower, Capacity(self.follower))
        self.ids = itertools.count()

    async def make(self, **facts: int) -> None:
        await self.log.make_bank(TENANT, "root", self.config)
        await self.write("root", **facts)

    async def write(self, bank: str, **facts: int) -> None:
        items = [
            write_of(self.config, fact, n, f"event {next(self.ids)}") for fact, n in facts.items()
        ]
        assert all(done.error is None for done in await self.log.append(TENANT, bank, items))

    async def forget(self, bank: str, fact: str) -> None:
        (done,) = await self.log.append(TENANT, bank, [forget_of(fact, f"event {next(self.ids)}")])
        assert done.error is None

    async def fork(self, source: str, new: str, at: int = 0) -> bool:
        return await self.brancher.fork(TENANT, source, new, at)

    async def merge(self, source: str, target: str, policy: str = "fail", merge_id: str = "m", **k):
        return await self.brancher.merge(
            TENANT, source, target, policy, merge_id, k.get("dry_run", False)
        )

    async def facts(self, bank: str) -> dict[str, int]:
        """Fact id -> the number that its answer ends with."""
        live, _ = await self.brancher.facts_at(TENANT, bank)
        found = {}
        for fact, (version, _) in live.items():
            (raw,) = await self.log.payloads(TENANT, bank, [version])
            found[fact] = int(raw.split(b'"answer":"answer ')[1].split(b'"')[0])
        return found


async def test_facts_are_listed_and_compared_beside_the_event_loop(monkeypatch) -> None:
    banks = Banks()
    await banks.make(kept=1, both=2)
    await banks.fork("root", "fork")
    await banks.write("fork", both=3)
    listing, listed = noting_threads(branches._facts_in)
    comparing, compared = noting_threads(three_way)
    monkeypatch.setattr(branches, "_facts_in", listing)
    monkeypatch.setattr(branches, "three_way", comparing)
    assert (await banks.merge("fork", "root")).written == 1
    assert listed == [True] * 3 and compared == [True]


@pytest.mark.parametrize("addressing", ADDRESSINGS)
@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        ("ours", {"kept": 1, "new": 5, "both": 6, "same": 9}),
        ("theirs", {"kept": 1, "new": 5, "both": 7, "same": 9}),
    ],
)
async def test_a_merge_takes_what_only_the_source_changed(addressing, policy, wanted) -> None:
    banks = Banks(addressing)
    await banks.make(kept=1, gone=2, both=3, same=4)
    assert await banks.fork("root", "fork")
    await banks.write("fork", new=5, both=7, same=9)
    await banks.forget("fork", "gone")
    await banks.write("root", both=6, same=9)
    dry = await banks.merge("fork", "root", policy, "m", dry_run=True)
    before = await banks.log.head(TENANT, "root")
    merged = await banks.merge("fork", "root", policy)
    assert await banks.facts("root") == wanted
    assert (dry.written, dry.forgotten, dry.conflicts) == (
        merged.written, merged.forgotten, merged.conflicts
    )  # fmt: skip
    assert merged.conflicts == [("both", 3, 5, 6)] and not merged.overtaken
    assert (merged.plan.base.bank, merged.plan.base.version) == ("root", 4)
    assert merged.version == before[0] + merged.written + merged.forgotten
    assert (await banks.follower.verified(TENANT, "root")).matches
    again = await banks.merge("fork", "root", policy)
    assert again.version == merged.version, "the same merge again appends nothing"


async def test_a_conflict_refuses_the_whole_merge_and_may_be_tried_again() -> None:
    banks = Banks()
    await banks.make(a=1, b=2)
    await banks.fork("root", "fork")
    await banks.write("fork", a=3, b=5)
    await banks.write("root", a=4)
    before = await banks.log.head(TENANT, "root")
    with pytest.raises(FailedPrecondition, match="the first: a") as caught:
        await banks.merge("fork", "root")
    assert caught.value.reason == "MERGE_CONFLICT"
    assert await banks.log.head(TENANT, "root") == before
    await banks.write("root", a=3)
    await banks.merge("fork", "root")
    assert await banks.facts("root") == {"a": 3, "b": 5}


async def test_the_next_merge_compares_with_where_the_banks_last_met() -> None:
    banks = Banks()
    await banks.make(a=1)
    await banks.fork("root", "fork")
    await banks.write("fork", a=2, b=2)
    await banks.merge("fork", "root", merge_id="first")
    await banks.write("root", a=1)  # takes back what was merged
    merged = await banks.merge("fork", "root", merge_id="second")
    assert (await banks.facts("root"))["a"] == 1 and not merged.conflicts
    await banks.merge("fork", "root", merge_id="first")  # a late retry
    await banks.write("fork", b=7)
    merged = await banks.merge("fork", "root", merge_id="third")
    assert await banks.facts("root") == {"a": 1, "b": 7} and not merged.conflicts
    merged = await banks.merge("root", "fork", merge_id="back")
    assert await banks.facts("fork") == {"a": 1, "b": 7} and not merged.conflicts


async def test_siblings_part_at_the_earlier_fork_point() -> None:
    banks = Banks()
    await banks.make(a=1, b=2, c=3)
    await banks.fork("root", "one", 2)
    await banks.fork("root", "two", 3)
    await banks.fork("two", "three")
    await banks.write("three", d=4)
    merged = await banks.merge("three", "one")
    assert (merged.plan.base.bank, merged.plan.base.version) == ("root", 2)
    assert await banks.facts("one") == {"a": 1, "b": 2, "c": 3, "d": 4}


@pytest.mark.parametrize("which", ["source", "target"])
async def test_a_bank_made_anew_under_a_name_has_not_met_the_other(which) -> None:
    banks = Banks()
    await banks.make(a=1)
    for fork in ("one", "two"):
        await banks.fork("root", fork)
    await banks.write("one", b=2)
    await banks.write("two", d=4)
    await banks.merge("one", "two", merge_id="first")
    await banks.log.drop_bank(TENANT, "one" if which == "source" else "two")
    await banks.fork("root", "one" if which == "source" else "two", 1)
    if which == "source":
        await banks.write("one", b=2)
    await banks.write("one", c=3)
    with pytest.raises(FailedPrecondition) as caught:
        await banks.merge("one", "two", merge_id="first")
    assert caught.value.reason == "OTHER_HISTORY"
    await banks.merge("one", "two", merge_id="second")
    assert (await banks.facts("two")).items() >= {"a": 1, "b": 2, "c": 3}.items()


@pytest.mark.parametrize("facts", [{}, {"a": 1}])
async def test_a_fork_made_anew_at_a_later_version_parted_there(facts) -> None:
    banks = Banks()
    await banks.make(**facts)
    await banks.fork("root", "one")
    await banks.merge("root", "one", merge_id="nothing to do")
    await banks.log.drop_bank(TENANT, "one")
    await banks.write("root", b=2)
    await banks.fork("root", "one")
    await banks.write("root", b=3)
    merged = await banks.merge("root", "one", merge_id="again")
    assert (merged.conflicts, merged.written) == ([], 1)
    assert await banks.facts("one") == facts | {"b": 3}


class CutOff:
    """A log whose appends fail from a certain one on, after or before they are done."""

    def __init__(self, log: Any, appends: int, after: bool) -> None:
        self._log, self._left, self._after = log, appends, after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def append(self, *args: Any) -> Any:
        self._left -= 1
        if self._left >= 0 or self._after:
            done = await self._log.append(*args)
            if self._left >= 0:
                return done
        raise Unavailable("the store does not answer", "STORE_DOWN")


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("appends", range(4))
@pytest.mark.parametrize("policy", branches.POLICIES)
async def test_a_merge_that_was_cut_off_goes_on_as_it_was_planned(
    monkeypatch, policy, appends, after
) -> None:
    """Also where somebody edits, and erases a fact of it, in between."""
    monkeypatch.setattr(branches, "MERGE_BATCH", 2)
    banks = Banks("pinv")
    await banks.make(a=1, b=2, c=3, z=0)
    await banks.fork("root", "fork")
    await banks.write("fork", a=11, b=12, d=14, e=15, f=16, g=17)
    await banks.forget("fork", "c")
    cut_off: Any = CutOff(banks.log, appends, after)
    brancher = Brancher(cut_off, banks.follower, Capacity(banks.follower))
    with pytest.raises(Unavailable):
        await brancher.merge(TENANT, "fork", "root", policy, "m", dry_run=False)
    done = await banks.facts("root")
    await banks.log.erase(TENANT, "fork", [erase_of("a")])
    await banks.write("fork", d=99)  # too late for this merge
    overtaken = "g" not in done
    if overtaken:
        await banks.write("root", g=50)
    merged = await banks.merge("fork", "root", policy)
    assert merged.overtaken == ["g"] * overtaken
    assert await banks.facts("root") == {
        "b": 12, "d": 14, "e": 15, "f": 16, "g": 50 if overtaken else 17, "z": 0,
    }  # fmt: skip
    kinds = [event.kind for event in await banks.log.fact_events(TENANT, "root", "b")]
    assert kinds == [Kind.WRITE, Kind.WRITE], "nothing was appended twice"


async def test_a_merge_id_is_one_merge() -> None:
    banks = Banks()
    await banks.make(a=1)
    for fork in ("one", "two"):
        await banks.fork("root", fork)
        await banks.write(fork, **{fork: 3})
    await banks.merge("one", "root", "ours")
    for source, policy in (("two", "ours"), ("one", "theirs")):
        with pytest.raises(Conflict):
            await banks.merge(source, "root", policy)


async def test_what_cannot_be_merged() -> None:
    banks = Banks()
    await banks.make(a=1)
    await banks.log.make_bank(TENANT, "stranger", CONFIG)
    for source, target, policy, merge_id, refusal, reason in (
        ("root", "root", "fail", "m", InvalidArgument, "INVALID_ARGUMENT"),
        ("root", "stranger", "fail", "m", FailedPrecondition, "NOT_RELATED"),
        ("nowhere", "root", "fail", "m", NotFound, "UNKNOWN_BANK"),
        ("root", "stranger", "mine", "m", InvalidArgument, "INVALID_ARGUMENT"),
        ("stranger", "root", "fail", "m" * 236, InvalidArgument, "INVALID_ARGUMENT"),
    ):
        with pytest.raises(refusal) as caught:
            await banks.merge(source, target, policy, merge_id)
        assert caught.value.reason == reason


async def test_the_longest_merge_id_still_merges() -> None:
    banks = Banks()
    await banks.make(a=1)
    await banks.fork("root", "fork")
    await banks.write("fork", a=2)
    merged = await banks.merge("fork", "root", merge_id="m" * MAX_MERGE_ID_BYTES)
    assert merged.written == 1 and not merged.overtaken


async def test_a_fork_is_its_origin_up_to_the_point_and_its_own_from_there() -> None:
    banks = Banks()
    await banks.make(a=1, b=2, c=3)
    assert await banks.fork("root", "head") and await banks.fork("root", "early", 2)
    assert not await banks.fork("root", "head"), "a retry, though"
    await banks.write("root", d=4)
    assert not await banks.fork("root", "head"), "the head has moved on since"
    with pytest.raises(Conflict) as caught:
        await banks.fork("root", "early", 1)
    assert caught.value.reason == "BANK_EXISTS"
    with pytest.raises(FailedPrecondition) as caught:
        await banks.fork("root", "late", 9)
    assert caught.value.reason == "VERSION_NOT_WRITTEN"
    with pytest.raises(InvalidArgument):
        await banks.fork("root", "late", -1)
    assert await banks.facts("early") == {"a": 1, "b": 2}
    assert (await state_of(banks.follower, "head"))[2].keys() == {"a", "b", "c"}


@pytest.mark.parametrize("policy", ["fail", "theirs"])
async def test_a_merge_for_which_there_is_no_room_is_refused_whole(monkeypatch, policy) -> None:
    """What was appended could not be folded any more, and stopped the bank for good."""
    monkeypatch.setattr(capacity, "MARGIN_ROWS", 0)
    monkeypatch.setattr(branches, "MERGE_BATCH", 2)
    banks = Banks()
    await banks.make(a=1, b=2)
    await banks.fork("root", "fork")
    await banks.write("fork", c=3, d=4, e=5)
    await banks.write("root", x=6, y=7)
    async with banks.follower.state(TENANT, "fork") as state:
        monkeypatch.setattr(larimar_state, "MAX_ROWS", state.row_count)
    before = await banks.log.head(TENANT, "root")
    with pytest.raises(ResourceExhausted, match="forget facts first"):
        await banks.brancher.merge(TENANT, "fork", "root", policy, "m", dry_run=False)
    assert await banks.log.head(TENANT, "root") == before
    for fact in "abx":
        await banks.forget("root", fact)
    merged = await banks.brancher.merge(TENANT, "fork", "root", policy, "m", dry_run=False)
    assert (merged.written, merged.conflicts) == (3, [])
    assert (await banks.facts("root")).keys() == {"c", "d", "e", "y"}
