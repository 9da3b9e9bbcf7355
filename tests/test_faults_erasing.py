"""Erasures whose workers or stores are killed, cut off or late: they end, as completely."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
import redis

from larimar.v1 import common_pb2
from services.memory import erasure
from tests.erasures import (
    PROMPT,
    SECRET,
    Home,
    assert_erased,
    assert_nowhere,
    eventually,
    fill,
    needles,
    new_home,
    queue,
)
from tests.fault_wires import Wire, Worker
from tests.faults import (
    B,
    Node,
    T,
    config_of,
    kill_store,
    retried,
    rounds,
    seeded,
)

STEPS = (
    common_pb2.ERASE_STEP_APPENDED,
    common_pb2.ERASE_STEP_CHECKPOINTED,
    common_pb2.ERASE_STEP_REMOVED,
    common_pb2.ERASE_STEP_REWRITTEN,
)


@pytest.fixture
def home() -> Iterator[Home]:
    with new_home() as made:
        yield made


@pytest_asyncio.fixture
async def memory(home: Home) -> AsyncIterator[Node]:
    made = Node(home.store.url, home.ledger)
    yield made
    await made.close()


# Workers that are killed


async def take_over(memory: Node) -> common_pb2.EraseReceipt:
    """Another worker finds the work that was left, and ends it."""
    eraser = memory.eraser()
    assert await eraser.take_up(left_s=0.0) == 1
    while eraser._running:
        await asyncio.sleep(0.01)
    return await eraser.receipt(T, B, "erase-1")


@pytest.mark.parametrize("step", STEPS)
async def test_kill_9_at_each_step_of_an_erasure(home, memory, step: int) -> None:
    wanted = needles(config_of())
    await fill(memory, "slots")
    await queue(memory)
    with Worker(home.store.url, ledger=home.ledger) as worker:
        told = {"fact_ids": [SECRET], "event_id": "erase-1", "die_at_step": step}
        await asyncio.to_thread(worker.dies_of, "erase", **told)
    held = await memory.eraser().receipt(T, B, "erase-1")
    assert held.step == step
    async with memory.follower.state(T, B) as state:
        assert SECRET not in state.facts, "nobody reads it from the first step on"
    await assert_erased(home, memory, await take_over(memory), wanted)


async def test_kill_9_anywhere_in_an_erasure(home, memory) -> None:
    """Before or after some calls to the log, of all that an erasure makes."""
    rng = seeded("kill erasure")
    addressing = rng.choice(["slots", "pinv"])
    wanted = needles(config_of(addressing))
    await fill(memory, addressing)
    with Worker(home.store.url, ledger=home.ledger) as worker:
        told = {"fact_ids": [SECRET], "event_id": "erase-1"}
        calls = (await asyncio.to_thread(worker.call, "erase", **told))["calls"]
    assert calls > 30
    for _ in range(rounds(1)):
        call, after = rng.randrange(1, calls + 1), rng.random() < 0.5
        print(f"{addressing}: dies at call {call} of {calls}, after={after}")
        with redis.Redis.from_url(home.store.url) as raw:
            raw.flushall()
        home.ledger.unlink()
        await memory.close()
        memory = Node(home.store.url, home.ledger)
        await fill(memory, addressing)
        await queue(memory)
        with Worker(home.store.url, ledger=home.ledger) as worker:
            told |= {"die_at_call": call, "after": after}
            await asyncio.to_thread(worker.dies_of, "erase", **told)
        if await memory.log.jobs():
            receipt = await take_over(memory)
        else:  # it died before anything was kept: whoever asked for it asks again
            receipt = await memory.erased(SECRET)
            while await memory.log.jobs():
                await asyncio.sleep(0.01)
        await assert_erased(home, memory, receipt, wanted)


@pytest.mark.parametrize("shift_s", [-3600.0, 3600.0])
async def test_work_left_by_a_worker_whose_clock_is_an_hour_off(
    home, memory, shift_s: float
) -> None:
    wanted = needles(config_of())
    await fill(memory, "slots")
    with Worker(home.store.url, shift_s=shift_s, ledger=home.ledger) as worker:
        told = {"fact_ids": [SECRET], "event_id": "erase-1", "die_at_step": STEPS[1]}
        await asyncio.to_thread(worker.dies_of, "erase", **told)
    await assert_erased(home, memory, await take_over(memory), wanted)


async def test_two_workers_at_the_same_erasure(home, memory) -> None:
    """As when one was paused for so long that another took its work up."""
    wanted = needles(config_of("pinv"))
    await fill(memory, "pinv")
    await queue(memory)
    erasers = [memory.eraser() for _ in range(3)]
    await erasers[0].erase(T, B, [SECRET], "erase-1")
    for eraser in erasers[1:]:
        await eraser.take_up(left_s=-1.0)
    for eraser in erasers:
        while eraser._running:
            await asyncio.sleep(0.01)
    receipt = await erasers[0].receipt(T, B, "erase-1")
    await assert_erased(home, memory, receipt, wanted)


async def test_answers_are_cut_in_the_middle_of_an_erasure(home, memory, monkeypatch) -> None:
    """Its keeper tries again, whichever call it was."""
    monkeypatch.setattr(erasure, "PAUSE_S", 0.02)
    rng = seeded("cut erasure")
    wanted = needles(config_of())
    await fill(memory, "slots")
    await queue(memory)
    async with Wire(home.store) as wire:
        far = Node(wire.url, home.ledger)

        async def cut() -> None:
            for number in range(1, 7):
                wire.cut_next(after=rng.randrange(3))
                while wire.cut < number:
                    await asyncio.sleep(0.001)

        cutter = asyncio.create_task(cut())
        receipt = await retried(lambda: far.erased(SECRET))
        cutter.cancel()
        assert wire.cut >= 2, "an erasure has many calls"
        while await memory.log.jobs():
            await asyncio.sleep(0.01)
        await far.close()
    await assert_erased(home, memory, receipt, wanted)


async def test_the_store_is_killed_in_the_middle_of_an_erasure(home, memory, monkeypatch) -> None:
    monkeypatch.setattr(erasure, "PAUSE_S", 0.02)
    rng = seeded("kill store while erasing")
    wanted = needles(config_of("pinv"))
    await fill(memory, "pinv")
    await queue(memory)
    home.store.supervise()
    work = asyncio.create_task(retried(lambda: memory.erased(SECRET)))
    for _ in range(3):
        await asyncio.sleep(rng.uniform(0.0, 0.1))
        kill_store(home.store)
        await asyncio.sleep(0.3)
    receipt = await work
    while await retried(memory.log.jobs):
        await asyncio.sleep(0.01)
    await assert_erased(home, memory, receipt, wanted)


async def test_a_rewrite_that_was_killed_keeps_nothing_back(home, memory) -> None:
    """The server leaves its half-written file behind, with all that the store held."""
    wanted = needles(config_of())
    await fill(memory, "slots")
    await queue(memory)
    with redis.Redis.from_url(home.store.url) as raw:
        raw.config_set("rdb-key-save-delay", 20_000)  # microseconds: there is time to kill it
        raw.bgrewriteaof()

    def half_written() -> list[Path]:
        files = home.folder.glob("temp-rewriteaof-*.aof")
        return [path for path in files if PROMPT.encode() in path.read_bytes()]

    (left,) = await eventually(half_written)
    kill_store(home.store)
    await asyncio.to_thread(home.store.restart)
    receipt = await retried(lambda: memory.erased(SECRET))
    assert receipt.scan.found == 0
    assert_nowhere(home, wanted)
    assert not left.exists()
