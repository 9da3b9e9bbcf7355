"""Folding a long tail: what is fetched ahead of the fold, and what a replay leaves out."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

import pytest

from larimar import rows
from larimar.errors import Unavailable
from larimar.memory import BankState
from larimar.sums import ExactSums
from services import folding
from services.log import Append
from tests.banks import config_of
from tests.following import TENANT, NotedLog, both, erase_of, forget_of, frozen, write_of

CONFIG = config_of("pinv")


class FetchedLog(NotedLog):
    """Notes the versions of each request for payloads, and can refuse the first ones."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[list[int]] = []
        self.refusals = 0

    async def payloads(self, tenant, bank, versions):
        self.asked.append(list(versions))
        if len(self.asked) <= self.refusals:
            raise Unavailable("the store does not answer", "STORE_DOWN")
        return await super().payloads(tenant, bank, versions)


def program(seed: int, steps: int) -> list[Append]:
    """Writes, replacements and forgets of six facts, which come back and go again."""
    rng, live, items = random.Random(seed), set(), []
    for number in range(steps):
        fact_id = f"fact {rng.randrange(6)}"
        if fact_id in live and rng.random() < 0.5:
            live.remove(fact_id)
            items.append(forget_of(fact_id, f"event {number}"))
        else:
            live.add(fact_id)
            items.append(write_of(CONFIG, fact_id, number, f"event {number}"))
    return items


async def log_with(items: list[Append]) -> FetchedLog:
    log = FetchedLog()
    await log.make_bank(TENANT, "b", CONFIG)
    assert all(done.error is None for done in await log.append(TENANT, "b", items))
    return log


@pytest.fixture(autouse=True)
def pages_of_five(monkeypatch):
    monkeypatch.setattr(folding, "TAIL_EVENTS", 5)
    monkeypatch.setattr(folding, "INLINE_EVENTS", 4)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("start", [0, 12])
async def test_what_pages_will_subtract_is_known_before_any_is_folded(seed, start) -> None:
    log = await log_with(program(seed, 60))
    state = BankState(CONFIG)
    if start:
        await folding.fold_tail(log, state, TENANT, "b", start)
    subtracted = folding._Subtracted(state)
    pages = [await log.tail(TENANT, "b", after, 5) for after in range(start, 60, 5)]
    told = [subtracted.by(page) for page in pages]
    assert any(told)
    for page, versions in zip(pages, told, strict=True):
        entries = await folding._parsed(page)
        needed = state.needs(entries)
        assert sorted(versions) == needed
        raw = dict(zip(needed, await log.payloads(TENANT, "b", needed), strict=True))
        folding._change(state, entries, raw)


@pytest.mark.parametrize("refusals", [0, 1])
async def test_a_page_waits_for_payloads_only_where_they_could_not_be_had_before(refusals) -> None:
    items = program(3, 60)
    log = await log_with(items)
    log.refusals = refusals
    rebuilt = await both(log).rebuilt(TENANT, "b")
    asked = [version for versions in log.asked[refusals:] for version in versions]
    assert len(asked) == len(set(asked)), "nothing is fetched twice"
    twin = BankState(CONFIG)
    for page in [await log.tail(TENANT, "b", after, 5) for after in range(0, 60, 5)]:
        entries = await folding._parsed(page)
        needed = twin.needs(entries)
        raw = dict(zip(needed, await log.payloads(TENANT, "b", needed), strict=True))
        folding._change(twin, entries, raw)
    assert frozen(rebuilt) == frozen(twin)


@pytest.mark.parametrize("seed", range(5))
async def test_what_was_erased_is_not_asked_for(seed) -> None:
    log = await log_with(program(seed, 60))
    fact_id = "fact 2"
    await log.erase(TENANT, "b", [erase_of(fact_id)])
    await log.remove_payloads(TENANT, "b", [fact_id])
    follower = both(log)
    rebuilt = await follower.rebuilt(TENANT, "b")
    assert fact_id not in rebuilt.facts and rebuilt.erased == {fact_id}
    live = [item for item in program(seed, 60) if item.fact_id != fact_id]
    assert rebuilt.digest() == (await both(await log_with(live)).rebuilt(TENANT, "b")).digest()


async def test_products_are_made_while_the_next_page_is_folded(monkeypatch) -> None:
    """The first page's wait until a second one is folded; the third page's fold waits for them."""
    log, settle, change = await log_with(program(3, 60)), ExactSums.settle, folding._change
    folded, may_go_on, first = [], threading.Event(), threading.Lock()

    def held_up(sums) -> None:
        if first.acquire(blocking=False):
            assert may_go_on.wait(60)
        settle(sums)

    def noted(state, *args) -> None:
        change(state, *args)
        folded.append(state.version)
        if len(folded) == 2:
            may_go_on.set()

    monkeypatch.setattr(ExactSums, "settle", held_up)
    monkeypatch.setattr(folding, "_change", noted)
    rebuilt = await both(log).rebuilt(TENANT, "b")
    assert folded == list(range(5, 61, 5))
    state = BankState(CONFIG)
    monkeypatch.setattr(folding, "INLINE_EVENTS", 5)
    await folding.fold_tail(log, state, TENANT, "b")
    assert frozen(rebuilt) == frozen(state)


def alone(at_work: threading.Lock, function: Callable, pause_s: float = 0.0) -> Callable:
    """The function, which fails when another call of such a one has not ended yet."""

    def working(*args):
        assert at_work.acquire(blocking=False), "two at once"
        time.sleep(pause_s)
        function(*args)
        at_work.release()

    return working


async def test_an_erasure_comes_after_the_products_that_are_being_made(monkeypatch) -> None:
    log = await log_with(program(3, 60))
    page, erased = log.tail, []

    async def erased_meanwhile(tenant, bank, after, *args):
        if after == 30 and not erased:
            erased.append(await log.erase(TENANT, "b", [erase_of("fact 2")]))
        return await page(tenant, bank, after, *args)

    monkeypatch.setattr(log, "tail", erased_meanwhile)
    monkeypatch.setattr(ExactSums, "settle", alone(threading.Lock(), ExactSums.settle, 0.02))
    rebuilt = await both(log).rebuilt(TENANT, "b")
    assert erased and "fact 2" not in rebuilt.facts
    assert frozen(rebuilt) == frozen(await both(log).rebuilt(TENANT, "b"))


async def test_rows_are_moved_together_while_nothing_is_folded(monkeypatch) -> None:
    monkeypatch.setattr(rows, "MIN_DEAD", 2)
    compact, at_work, moved = rows.Rows.compact, threading.Lock(), []
    config = config_of("slots")

    def noted(held) -> None:
        moved.append(held.live)
        compact(held)

    monkeypatch.setattr(rows.Rows, "compact", alone(at_work, noted, 0.02))
    monkeypatch.setattr(folding, "_change", alone(at_work, folding._change))
    log = NotedLog()
    await log.make_bank(TENANT, "b", config)
    writes = [write_of(config, f"fact {n}", n) for n in range(30)]
    await log.append(TENANT, "b", writes + [forget_of(f"fact {n}") for n in range(25)])
    rebuilt = await both(log).rebuilt(TENANT, "b")
    assert moved and len(rebuilt) == 5
    twin = BankState(config)
    monkeypatch.setattr(folding, "INLINE_EVENTS", 5)
    await folding.fold_tail(log, twin, TENANT, "b")
    assert frozen(rebuilt) == frozen(twin)


async def test_a_replay_that_nobody_asks_begins_no_index(monkeypatch) -> None:
    begun = []
    monkeypatch.setattr(rows, "INDEX_ROWS", 8)
    monkeypatch.setattr(rows, "Index", lambda *of: begun.append(of))
    config = config_of("slots")
    log = NotedLog()
    await log.make_bank(TENANT, "b", config)
    await log.append(TENANT, "b", [write_of(config, f"fact {n}", n) for n in range(40)])
    rebuilt = await both(log).rebuilt(TENANT, "b")
    rebuilt.digest(), rebuilt.folded_sha256(), rebuilt.to_tensors()
    assert rebuilt.row_count > 8 and not begun
