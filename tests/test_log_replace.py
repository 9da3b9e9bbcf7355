"""The log's contract for a bank that takes another's place: one step for readers and writers."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
import redis

from larimar.errors import FailedPrecondition, Unavailable
from larimar.memory import Kind
from services import redis_banks
from services.log import Log, Stored
from services.redis_bank_scripts import DROP, FORK, REPLACE, SWEEP
from services.redis_log import RedisLog
from services.store import EmbeddedStore
from tests.logs import (
    CONFIG,
    OTHER_CONFIG,
    B,
    T,
    appended,
    cut_off,
    erase,
    erased,
    forget,
    whole_archive,
    whole_tail,
    write,
)

pytest_plugins = ("tests.log_stores",)
pytestmark = pytest.mark.asyncio

EVENTS = [*(write(f"e{n}", f"f{n % 3}") for n in range(1, 8)), forget("e8", "f1")]


async def twin(log: Log, bank: str, name: str = "twin") -> list[Stored]:
    """The archive of a bank of another configuration with the same events as another."""
    await log.make_bank(T, name, OTHER_CONFIG)
    for one in await log.events(T, bank, 0, 1000):
        event = (one.event_id, one.fact_id)
        item = (
            forget(*event)
            if one.kind == Kind.FORGET
            else write(*event, payload=b"of the other model")
        )
        await log.append(T, name, [item])
    return await whole_archive(log, name)


async def replaced(log: Log, bank: str, archive: list[Stored]) -> None:
    """The archive takes the place of a bank as it is now."""
    version, chain, _ = await log.head(T, bank)
    await log.load(T, bank, archive, "s", replaces=True)
    await log.publish(T, bank, OTHER_CONFIG, [], len(archive), "s", (version, chain))


async def test_the_old_bank_serves_until_the_new_one_does(log: Log) -> None:
    await log.append(T, B, EVENTS)
    before, archive = await whole_tail(log), await twin(log, B)
    for start in range(0, 8, 3):
        await log.load(T, B, archive[start : start + 3], "s", replaces=True)
        assert await whole_tail(log) == before and await log.bank_config(T, B) == CONFIG
    await replaced(log, B, archive)
    assert await log.bank_config(T, B) == OTHER_CONFIG
    assert await whole_tail(log) == await whole_tail(log, bank="twin") != before
    assert await log.head(T, B) == await log.head(T, "twin")
    assert await log.banks(T) == [B, "twin"] and await log.family(T, B) == {B: None}
    assert await appended(log, write("e2", "f2"), write("new", "f9")) == [
        (2, True, None),
        (9, False, None),
    ]
    assert (await log.head(T, "twin"))[0] == 8


async def test_an_edit_that_came_meanwhile_is_not_lost(log: Log) -> None:
    await log.append(T, B, EVENTS)
    archive, (version, chain, _) = await twin(log, B), await log.head(T, B)
    await log.load(T, B, archive, "s", replaces=True)
    await log.append(T, B, [write("late", "f9")])
    with pytest.raises(FailedPrecondition) as refused:
        await log.publish(T, B, OTHER_CONFIG, [], version, "s", (version, chain))
    assert refused.value.reason == "BANK_EDITED"
    assert (await log.head(T, B))[0] == 9 and await log.bank_config(T, B) == CONFIG
    await log.append(T, "twin", [write("late", "f9", payload=b"of the other model")])
    await replaced(log, B, await whole_archive(log, "twin"))
    assert [event.event_id for event, _ in await whole_tail(log)][-1] == "late"


async def test_what_was_made_for_the_old_bank_is_not_appended_to_the_new_one(log: Log) -> None:
    await log.append(T, B, EVENTS)
    await replaced(log, B, await twin(log, B))
    both = await asyncio.gather(
        log.append(T, B, [write("old", "f9")], CONFIG),
        log.append(T, B, [write("new", "f9")], OTHER_CONFIG),
        log.append(T, B, [write("older", "f9")], CONFIG),
        return_exceptions=True,
    )
    assert [one.reason for one in both if isinstance(one, Unavailable)] == ["BANK_SWITCHED"] * 2
    assert [event.event_id for event in await log.events(T, B, 8, 10)] == ["new"]


async def test_a_bank_with_forks_is_not_replaced_and_a_fork_is(log: Log) -> None:
    await log.append(T, B, EVENTS)
    await log.fork(T, B, "fork", 8)
    archive = await twin(log, B)
    with pytest.raises(FailedPrecondition) as refused:
        await replaced(log, B, archive)
    assert refused.value.reason == "HAS_FORKS" and await log.bank_config(T, B) == CONFIG
    await replaced(log, "fork", archive)
    assert await log.family(T, "fork") == {"fork": None} and await log.family(T, B) == {B: None}
    await replaced(log, B, archive)
    assert await whole_tail(log) == await whole_tail(log, bank="fork")


async def test_a_replaced_bank_is_a_bank_like_any_other(log: Log) -> None:
    await log.append(T, B, EVENTS)
    archive = await twin(log, B)
    for _ in range(3):
        await replaced(log, B, archive)
    assert await log.fork(T, B, "fork", 8) is True
    assert set(await log.family(T, B)) == {B, "fork"}
    assert await appended(log, write("own", "f0"), bank="fork") == [(9, False, None)]
    assert await erased(log, erase("x", "f2")) == [(9, False, None)]
    assert await log.erased(T, "fork") == {"f2"}
    assert await log.remove_payloads(T, B, ["f2"]) == 2
    await log.drop_bank(T, "fork")
    assert await log.drop_bank(T, B) is True
    assert await log.make_bank(T, B, CONFIG) == (CONFIG, True)
    assert await log.head(T, B) == (0, "", 0)


async def test_a_payload_is_removed_where_a_replaced_bank_has_no_forks(log: Log) -> None:
    await log.append(T, B, EVENTS)
    await replaced(log, B, await twin(log, B))
    await erased(log, erase("x", "f2"))
    assert await log.remove_payloads(T, B, ["f2"]) == 2


async def test_nothing_is_left_of_the_old_bank_nor_of_what_was_loaded(
    redis_bank: RedisLog, raw: redis.Redis
) -> None:
    log = redis_bank
    await log.append(T, B, EVENTS)
    archive = await twin(log, B)
    await log.load(T, B, archive[:3], "another", replaces=True)
    await replaced(log, B, archive)
    of_twin = raw.keys("{acme:twin}:*")
    assert len(raw.keys("{acme:default@}:*")) == len(of_twin)
    assert not raw.keys("{acme:default}:*")
    await log.load(T, B, archive[:3], "s", replaces=True)
    await log.drop_bank(T, B)
    assert sorted(raw.keys()) == sorted([*of_twin, b"{acme}:banks"])


@pytest.mark.parametrize(("script", "nth"), [(REPLACE, 1), (SWEEP, 1), (SWEEP, 2)])
@pytest.mark.parametrize("bank", [B, "fork"])
async def test_a_look_for_what_was_cut_off_finishes_a_replacement(
    redis_bank: RedisLog, store: EmbeddedStore, raw: redis.Redis, monkeypatch, bank, script, nth
) -> None:
    monkeypatch.setattr(redis_banks, "SWEEP_ENTRIES", 2)
    log, cut = redis_bank, RedisLog(store.url)
    if bank == "fork":
        await log.fork(T, B, "fork", 0)
        await log.append(T, B, [write("kept", "kept")])
    await log.append(T, bank, EVENTS)
    archive, first = await twin(log, bank), (await log.events(T, bank, 0, 1))[0].chain
    cut_off(cut, script, nth)
    with pytest.raises(Unavailable):
        await replaced(cut, bank, archive)
    await cut.close()
    old = f"{{acme:default}}:{bank}:*"
    assert raw.keys(old) and await log.bank_config(T, bank) == OTHER_CONFIG
    assert await log.sweep_loads("else") == []
    assert await log.sweep_loads(T) == [first]
    assert not raw.keys(old) and await log.sweep_loads(T) == []
    assert await whole_archive(log, bank) == archive
    if bank == "fork":
        assert [event.event_id for event in await log.events(T, B, 0, 9)] == ["kept"]


@pytest.mark.parametrize(("script", "nth"), [(DROP, 1), (SWEEP, 1), (SWEEP, 2), (SWEEP, 5)])
@pytest.mark.parametrize("bank", [B, "fork"])
async def test_a_removal_that_was_cut_off_is_one_when_it_is_repeated(
    redis_bank: RedisLog, store: EmbeddedStore, raw: redis.Redis, monkeypatch, bank, script, nth
) -> None:
    monkeypatch.setattr(redis_banks, "SWEEP_ENTRIES", 2)
    log = redis_bank
    await log.make_bank(T, "other", CONFIG)
    before = sorted(raw.keys())
    for finish in (log.drop_bank, log.sweep_loads):
        cut = RedisLog(store.url)
        if bank == "fork":
            await log.fork(T, B, "fork", 0)
        await log.make_bank(T, bank, CONFIG)
        await log.append(T, bank, EVENTS)
        cut_off(cut, script, nth)
        with pytest.raises(Unavailable):
            await cut.drop_bank(T, bank)
        await cut.close()
        assert bank not in await log.banks(T)
        if finish == log.drop_bank:
            assert await log.drop_bank(T, bank) is True
        else:
            await log.sweep_loads(T)
        assert not raw.keys(f"*:{bank}:log") and not raw.keys(f"*:{bank}:payload:*")
    assert await log.drop_bank(T, bank) is True
    assert await log.drop_bank(T, bank) is False
    assert set(before) - set(raw.keys()) <= {b"{acme:default}:default:config"}


@pytest.mark.parametrize("made", ["load", "fork"])
async def test_what_is_just_being_made_is_not_swept(
    redis_bank: RedisLog, store: EmbeddedStore, monkeypatch, made
) -> None:
    """A bank of the name is begun between a look for what was left, and its sweep."""
    log, sweeper, cut = redis_bank, RedisLog(store.url), RedisLog(store.url)
    begun, swept, shows = asyncio.Event(), asyncio.Event(), []
    await log.append(T, B, EVENTS)
    archive = await whole_archive(log, B)
    if made == "fork":
        await log.fork(T, B, "gone", 8)
    else:
        await log.make_bank(T, "gone", CONFIG)
        await log.append(T, "gone", EVENTS)
    cut_off(cut, DROP, 1)
    with pytest.raises(Unavailable):
        await cut.drop_bank(T, "gone")
    run_made, run_swept = log.run, sweeper.run

    async def make() -> None:
        if made == "fork":
            assert await log.fork(T, B, "gone", 8) is True
        else:
            await log.load(T, "gone", archive[:3], "s")
            begun.set()

    async def held(script, *arguments):
        if script is FORK:
            shows.append(script)
            begun.set()
            await swept.wait()
        return await run_made(script, *arguments)

    async def late(script, *arguments):
        if script is SWEEP and not begun.is_set():
            tasks.create_task(make())
            await begun.wait()
        return await run_swept(script, *arguments)

    monkeypatch.setattr(log, "run", held)
    monkeypatch.setattr(sweeper, "run", late)
    async with asyncio.TaskGroup() as tasks:
        await sweeper.sweep_loads(T)
        swept.set()
    if made == "fork":
        assert len(shows) == 1, "what was built is still there"
        assert await whole_archive(log, "gone") == archive
    else:
        assert await log.load(T, "gone", [], "s") == (3, archive[2].event.chain)
    for other in (cut, sweeper):
        await other.close()


async def test_nobody_misses_the_bank_or_an_edit_while_it_is_replaced(
    redis_bank: RedisLog, store: EmbeddedStore
) -> None:
    """Readers and writers of other processes, which know the bank's old place."""
    log, done, seen = redis_bank, asyncio.Event(), []
    await log.append(T, B, EVENTS)

    async def edits(number: int) -> list[str]:
        other, acknowledged = RedisLog(store.url), []
        try:
            while not done.is_set() or not acknowledged:
                event_id = f"w{number}-{len(acknowledged)}"
                await other.append(T, B, [write(event_id, event_id)])
                acknowledged.append(event_id)
                # Ever slower: on a busy machine the whole log would never be brought over in time.
                await asyncio.sleep(0.02 + 0.01 * len(acknowledged))
        finally:
            await other.close()
        return acknowledged

    async def reads() -> None:
        other = RedisLog(store.url)
        try:
            while not done.is_set():
                config = await other.bank_config(T, B)
                page = await other.tail(T, B, 0, 5)
                assert [event.version for event, _ in page.entries] == [1, 2, 3, 4, 5]
                seen.append(config)
        finally:
            await other.close()

    async def switch() -> None:
        """Brings over what came, until nothing has come since."""
        await log.make_bank(T, "twin", OTHER_CONFIG)
        while True:
            known, _, _ = await log.head(T, "twin")
            for one in await log.events(T, B, known, 1000):
                kind = forget if one.kind == Kind.FORGET else write
                await log.append(T, "twin", [kind(one.event_id, one.fact_id)])
            archive = await whole_archive(log, "twin")
            _, chain, _ = await log.head(T, B)
            await log.load(T, B, archive, "s", replaces=True)
            with contextlib.suppress(FailedPrecondition):
                await log.publish(T, B, OTHER_CONFIG, [], len(archive), "s", (len(archive), chain))
                return

    async with asyncio.TaskGroup() as tasks:
        writers = [tasks.create_task(edits(number)) for number in range(2)]
        tasks.create_task(reads())
        await switch()
        while OTHER_CONFIG not in seen:
            await asyncio.sleep(0.01)
        done.set()
    kept = {event.event_id for event in await log.events(T, B, 8, 1000)}
    assert kept == {event_id for writer in writers for event_id in writer.result()}
    assert seen[0] == CONFIG and seen == sorted(seen, key=lambda one: one == OTHER_CONFIG)
