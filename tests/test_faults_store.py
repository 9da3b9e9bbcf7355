"""Kills, cuts, stalls and clocks between memory services and the store, on real processes.

Two servers on one directory and a killed parent are in tests/test_store.py, poison events in
tests/test_inbox.py; damage, refusals and no room are in tests/test_faults_damage.py, erasures in
tests/test_faults_erase.py, whole pipelines in tests/test_faults.py.
"""

from __future__ import annotations

import asyncio
import functools
import signal
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
import redis

from larimar.errors import (
    Conflict,
    NotFound,
    Unavailable,
)
from larimar.memory import Event, Kind, next_chain, request_hmac, salted_sha256
from services.log import Stored
from services.log_rules import SALT_BYTES
from services.store import EmbeddedStore
from tests.events import eventually
from tests.fault_wires import Wire, Worker
from tests.faults import (
    B,
    Node,
    T,
    check_bank,
    config_of,
    data_directory,
    forget,
    kill_store,
    node,
    retried,
    rounds,
    seeded,
    supervised_store,
    write,
)

HOUR_MS = 3_600_000


@pytest.fixture(scope="module")
def store() -> Iterator[EmbeddedStore]:
    with data_directory() as folder, supervised_store(folder) as running:
        yield running


@pytest.fixture
def raw(store: EmbeddedStore) -> Iterator[redis.Redis]:
    """A client that does what no service may; leaves an empty store."""
    with redis.Redis.from_url(store.url) as client:
        yield client
        client.flushall()


@pytest_asyncio.fixture
async def memory(store: EmbeddedStore, raw: redis.Redis) -> AsyncIterator[Node]:
    """A node with a bank; nothing else is in the store."""
    async with node(store.url, B) as made:
        yield made


# SIGKILL


async def test_kill_9_of_the_store_under_eight_publishers(store, memory) -> None:
    """Also: concurrent publishers on one bank, each with connections of its own."""
    rng = seeded("kill store")
    acknowledged: dict[str, int] = {}
    stopping = asyncio.Event()

    async def publish(name: str) -> None:
        async with node(store.url) as own:
            number = 0
            while not stopping.is_set():
                event_id, fact_id = f"{name}-{number}", f"{name}-{number % 7}"
                forgets = number % 7 == 6 and number > 20
                edit = forget(event_id, f"{name}-5") if forgets else write(event_id, fact_id)
                (acknowledged[event_id],) = await retried(lambda edit=edit: own.append(edit))
                number += 1

    publishers = [asyncio.create_task(publish(f"p{n}")) for n in range(8)]
    for _ in range(rounds(3)):
        await asyncio.sleep(rng.uniform(0.1, 0.5))
        before = store.restarts
        kill_store(store)
        while store.restarts == before:
            await asyncio.sleep(0.02)
    await eventually(lambda: len(acknowledged) > 100)
    stopping.set()
    await asyncio.gather(*publishers)
    events = await check_bank(store.url, acknowledged)
    assert len(events) == len(acknowledged), "what is in the log was acknowledged, in the end"


async def test_kill_9_of_a_memory_process_in_the_middle_of_appends(store, memory) -> None:
    rng = seeded("kill appender")
    edits = [["W", f"e{n}", f"f{n % 5}"] for n in range(100 + 100 * rounds(2))]
    acknowledged: dict[str, int] = {}
    for _ in range(rounds(2)):
        first = max(0, len(acknowledged) - 20)  # some again, under their event ids
        sent = edits[first : first + 100]
        with Worker(store.url) as worker:
            for edit in sent:
                worker.send("append", edits=[edit])
            for edit in sent[: rng.randrange(25, 80)]:
                answer = worker.receive()
                assert answer is not None
                version, duplicate, reason = answer["results"][0]
                assert not reason and (duplicate or edit[1] not in acknowledged)
                assert acknowledged.setdefault(edit[1], version) == version
            worker.signal(signal.SIGKILL)
    events = await check_bank(store.url, acknowledged)
    assert [event.event_id for event in events] == [edit[1] for edit in edits[: len(events)]]


async def test_kill_9_in_the_middle_of_a_checkpoint(store, memory, raw) -> None:
    rng = seeded("kill checkpoint")
    for start in range(0, 40 * rounds(3), 40):
        await memory.append(*(write(f"e{n}", f"f{n}") for n in range(start, start + 40)))
        with Worker(store.url) as worker:
            assert worker.call("checkpoints") == {"saved": True}
            await asyncio.sleep(rng.uniform(0.0, 0.1))
            worker.signal(signal.SIGKILL)
        await check_bank(store.url, {})
        uploads = raw.hlen(f"{{{T}:{B}}}:{B}:uploads")
        kept = [await memory.log.checkpoints(T, B, part) for part in ("memory", "scope")]
        assert all(1 <= len(one) <= 2 and one[0][0] == start + 40 for one in kept)
        assert uploads >= sum(map(len, kept))
    await memory.log.remove_checkpoints(T, B, before=0)
    assert raw.hlen(f"{{{T}:{B}}}:{B}:uploads") == sum(map(len, kept)), "half uploads are cleared"


# Answers that are lost, and calls that come again or late


async def test_an_answer_that_is_cut_after_the_append(store, memory) -> None:
    async with Wire(store) as wire, node(wire.url) as far:
        await far.log.head(T, B)
        for number, edit in enumerate((write("e1", "f"), write("e2", "f"), forget("e3", "f")), 1):
            wire.cut_next()
            with pytest.raises(Unavailable, match="retry it under its event id"):
                await far.append(edit)
            assert wire.cut == number
            assert (await memory.log.head(T, B))[0] == number, "it was carried out"
            (again,) = await far.log.append(T, B, [edit])
            assert (again.version, again.duplicate) == (number, True)
        wire.cut_next()
        with pytest.raises(Unavailable):
            await far.follower.save_checkpoint(T, B)
        await far.follower.save_checkpoint(T, B)
        wire.cut_next()
        with pytest.raises(Unavailable):
            await far.log.fork(T, B, "fork", 2)
        await far.log.fork(T, B, "fork", 2)
    await check_bank(store.url, {"e1": 1, "e2": 2, "e3": 3})
    await check_bank(store.url, {"e1": 1, "e2": 2}, bank="fork")


async def test_the_same_event_id_with_another_body_is_a_conflict(store, memory) -> None:
    await memory.append(write("e1", "f"), forget("e2", "f"))
    _, before, _ = await memory.log.head(T, B)
    for other in (
        write("e1", "g"),
        write("e1", "f", answer="another answer"),
        forget("e1", "f"),
        write("e2", "f"),
    ):
        (result,) = await memory.log.append(T, B, [other])
        assert isinstance(result.error, Conflict)
    assert (await memory.log.head(T, B))[1] == before
    await check_bank(store.url, {"e1": 1, "e2": 2})


async def test_a_duplicate_comes_years_later(store, memory) -> None:
    """Thousands of events, checkpoints, a restart of the server and a replaced fact in between."""
    await memory.append(write("first", "f"))
    for start in range(0, 4000, 800):
        await memory.append(*(write(f"e{n}", f"g{n % 50}") for n in range(start, start + 800)))
        await memory.follower.save_checkpoint(T, B)
    await memory.append(write("second", "f", answer="a newer answer"))
    await asyncio.to_thread(store.restart)
    async with node(store.url) as later:
        (again,) = await retried(lambda: later.log.append(T, B, [write("first", "f")]))
        assert (again.version, again.duplicate) == (1, True)
        (other,) = await later.log.append(T, B, [write("first", "f", answer="another answer")])
        assert isinstance(other.error, Conflict)
        assert (await later.log.head(T, B))[0] == 4002
        async with later.follower.state(T, B) as state:
            assert state.facts["f"][0] == 4002
    await check_bank(store.url, {"first": 1, "second": 4002})


async def test_a_forget_that_overtakes_its_write(store, memory) -> None:
    (early,) = await memory.log.append(T, B, [forget("e2", "f")])
    assert isinstance(early.error, NotFound) and early.error.reason == "UNKNOWN_FACT"
    assert (await memory.log.head(T, B))[0] == 0
    assert await memory.append(write("e1", "f"), forget("e2", "f")) == [1, 2]
    await check_bank(store.url, {"e1": 1, "e2": 2})


async def test_a_paused_replica_goes_on_after_its_replacement(store, memory) -> None:
    """The call that it was in ends late; a write that was forgotten meanwhile does not return."""
    async with Wire(store) as wire:
        with Worker(wire.url) as zombie:
            call = functools.partial(asyncio.to_thread, zombie.call)
            assert await call("append", edits=[["W", "e1", "f"]]) == {"results": [[1, False, ""]]}
            assert (await call("state"))["facts"] == 1
            wire.hold()
            zombie.send("append", edits=[["W", "e2", "g"]])
            await wire.held()
            zombie.signal(signal.SIGSTOP)
            edits = write("e2", "g"), forget("e3", "g"), forget("e4", "f")
            assert await memory.append(*edits) == [2, 3, 4]
            wire.flow()
            zombie.signal(signal.SIGCONT)
            late = await asyncio.to_thread(zombie.receive)
            assert late == {"results": [[2, True, ""]]}
            served = await call("state")
            async with memory.follower.state(T, B) as state:
                assert served == {"version": 4, "digest": state.digest(), "facts": 0}
    events = await check_bank(store.url, {"e1": 1, "e2": 2, "e3": 3, "e4": 4})
    assert len(events) == 4


async def test_scripts_are_flushed_between_calls(store, memory, raw) -> None:
    rng = seeded("script flush")
    acknowledged: dict[str, int] = {}

    async def publish(name: str) -> None:
        for number in range(40):
            event_id = f"{name}-{number}"
            (acknowledged[event_id],) = await memory.append(write(event_id, f"{name}-{number % 3}"))

    publishers = [asyncio.create_task(publish(f"p{n}")) for n in range(4)]
    while not all(task.done() for task in publishers):
        raw.script_flush()
        await asyncio.sleep(rng.uniform(0.0, 0.01))
    await asyncio.gather(*publishers)
    assert len(await check_bank(store.url, acknowledged)) == 160


# Clocks


@pytest.mark.parametrize("shift_s", [-3600.0, 3600.0])
async def test_a_process_whose_clock_is_an_hour_off(store, memory, shift_s: float) -> None:
    with Worker(store.url, shift_s=shift_s) as worker:
        assert await memory.append(write("e1", "f")) == [1]
        assert worker.call("append", edits=[["W", "e2", "f"], ["F", "e3", "f"]]) == {
            "results": [[2, False, ""], [3, False, ""]]
        }
        assert await memory.append(write("e4", "f")) == [4]
        assert worker.call("append", edits=[["W", "e1", "f"]]) == {"results": [[1, True, ""]]}
        assert worker.call("state")["facts"] == 1
    events = await check_bank(store.url, {"e1": 1, "e2": 2, "e3": 3, "e4": 4})
    times = [event.time_ms for event in events]
    assert times == sorted(times), "times are the store's, whoever appends"


async def test_a_store_whose_clock_goes_back_keeps_the_order(store, memory) -> None:
    """Versions order events, times do not: the log is loaded with times that fall by hours."""
    now_ms = int(redis.Redis.from_url(store.url).time()[0]) * 1000
    entries, chain, newest = [], "", {}
    for version, (event_id, fact_id) in enumerate([("e1", "f"), ("e2", "g"), ("e3", "f")], 1):
        time_ms = now_ms + (2 - version) * HOUR_MS
        edit = write(event_id, fact_id)
        salt = bytes([version]) * SALT_BYTES
        salted = salt + (edit.payload or b"")
        sha256 = salted_sha256(salted)
        previous = newest.get(fact_id, 0)
        fields = (version, Kind.WRITE, fact_id, event_id, time_ms, sha256)
        chain = next_chain(chain, *fields, previous)
        event = Event(*fields, chain, previous)
        entries.append(Stored(event, salted, request_hmac(salt, edit.body)))
        newest[fact_id] = version
    config = config_of()
    await memory.log.load(T, "moved", entries)
    await memory.log.publish(T, "moved", config, [], 3)
    assert await memory.append(write("e4", "g"), bank="moved") == [4]
    (again,) = await memory.log.append(T, "moved", [write("e1", "f")])
    assert (again.version, again.duplicate) == (1, True)
    events = await check_bank(store.url, {"e1": 1, "e2": 2, "e3": 3, "e4": 4}, bank="moved")
    times = [event.time_ms for event in events]
    assert times[:3] == sorted(times[:3], reverse=True) and times[3] > times[2]
    async with memory.follower.state(T, "moved") as state:
        assert {fact_id: at for fact_id, (at, _) in state.facts.items()} == {"f": 3, "g": 4}
