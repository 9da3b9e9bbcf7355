"""Followers of a log: fresh reads, refolding, checkpoints good and bad, damage, the byte budget."""

from __future__ import annotations

import asyncio
import dataclasses
import threading

import numpy as np
import pytest

from larimar import rows
from larimar.errors import DataLoss, FailedPrecondition, NotFound, Unavailable
from larimar.facts import Facts
from larimar.memory import BankState
from larimar.sums import ExactSums
from larimar.v1 import common_pb2, memory_pb2
from larimar.wire import vector_to_bytes
from services import folding
from services import follower as follower_module
from services.follower import Follower
from services.memory.service import INLINE_READS, MemoryService
from tests.banks import ADDRESSINGS, config_of
from tests.following import (
    BUDGET,
    CONFIG,
    TENANT,
    NotedLog,
    both,
    checkpoint_counts,
    filled,
    forget_of,
    frozen,
    noting_threads,
    state_of,
    write_of,
)


@pytest.fixture
def log() -> NotedLog:
    return NotedLog()


async def test_every_follower_sees_every_edit_that_was_acknowledged_before(log) -> None:
    await filled(log)
    one, other = both(log), both(log)
    for variant in range(3):
        (done,) = await log.append(TENANT, "b", [write_of(CONFIG, f"new {variant}", variant)])
        for follower in (one, other):
            async with follower.state(TENANT, "b") as state:
                assert state.version == done.version and f"new {variant}" in state.facts
    await log.append(TENANT, "b", [forget_of("new 0")])
    async with one.state(TENANT, "b") as state:
        assert "new 0" not in state.facts


async def test_readers_and_a_writer_at_once(log) -> None:
    """No read is older than what was acknowledged when it began."""
    await filled(log)
    follower, acknowledged, ends = both(log), [10], []

    async def write() -> None:
        for variant in range(30):
            (done,) = await log.append(TENANT, "b", [write_of(CONFIG, f"new {variant}", variant)])
            acknowledged.append(done.version)
            await asyncio.sleep(0)

    async def read() -> None:
        while not ends:
            known = acknowledged[-1]
            async with follower.state(TENANT, "b") as state:
                assert state.version >= known
            await asyncio.sleep(0)

    readers = [asyncio.create_task(read()) for _ in range(4)]
    await write()
    ends.append(True)
    await asyncio.gather(*readers)
    assert await state_of(follower) == frozen(await follower.rebuilt(TENANT, "b"))


class Gate:
    """Holds up the first call of a function, in its thread, once it has done its work."""

    def __init__(self, function, before: bool) -> None:
        self._function, self._before = function, before
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self, *args):
        first = not self.reached.is_set()
        if not self._before:
            answer = self._function(*args)
        self.reached.set()
        if first:
            assert self.opened.wait(60)
        return self._function(*args) if self._before else answer


async def cancelled_at(gate: Gate, reading: asyncio.Task, next_reading) -> asyncio.Task:
    """A reading that is cancelled at the gate, twice; the next one, begun before the gate opens."""
    assert await asyncio.to_thread(gate.reached.wait, 60)
    following = asyncio.create_task(next_reading)
    for _ in range(2):
        reading.cancel()
        for _ in range(20):
            await asyncio.sleep(0.002)
    assert not reading.done(), "it leaves its thread behind"
    gate.opened.set()
    with pytest.raises(asyncio.CancelledError):
        await reading
    return following


@pytest.mark.parametrize("addressing", ["pinv", "slots"])
async def test_a_read_that_is_cancelled_while_it_settles_leaves_the_state_whole(
    log, monkeypatch, addressing
) -> None:
    """A pinv bank makes its products beside the loop, a slots bank moves rows together there."""
    config = config_of(addressing)
    monkeypatch.setattr(rows, "MIN_DEAD", 0 if addressing == "slots" else 100)
    monkeypatch.setattr(folding, "INLINE_EVENTS", 0)
    await filled(log, config=config)
    follower = both(log)
    await state_of(follower)
    items = [forget_of(f"fact {number}") for number in range(1, 5)]
    await log.append(TENANT, "b", [*items, write_of(config, "new", 1)])
    settled = ExactSums if addressing == "pinv" else BankState
    gate = Gate(settled.settle, before=True)
    noted, beside = noting_threads(gate)
    monkeypatch.setattr(settled, "settle", lambda state: noted(state))
    reading = asyncio.create_task(state_of(follower))
    following = await cancelled_at(gate, reading, state_of(follower))
    found = await following
    monkeypatch.undo()
    assert beside[0] and found == frozen(await follower.rebuilt(TENANT, "b"))
    assert not follower.stopped_banks


async def test_a_digest_that_is_cancelled_is_not_that_of_a_later_state(log, monkeypatch) -> None:
    await filled(log)
    follower = both(log)
    service = MemoryService(log, follower)
    request = memory_pb2.ComputeDigestRequest(
        context=common_pb2.CallContext(tenant=TENANT), bank="b"
    )
    gate = Gate(Facts.hash_into, before=False)
    monkeypatch.setattr(Facts, "hash_into", lambda *args: gate(*args))

    async def after_a_write():
        await log.append(TENANT, "b", [write_of(CONFIG, "new", 1)])
        return await service.ComputeDigest(request, None)

    reading = asyncio.create_task(service.ComputeDigest(request, None))
    await (await cancelled_at(gate, reading, after_a_write()))
    answer = await service.ComputeDigest(request, None)
    assert answer.version == 11
    assert answer.digest == (await follower.rebuilt(TENANT, "b")).digest()


@pytest.mark.parametrize("queries", [1, INLINE_READS + 1])
@pytest.mark.parametrize("addressing", ADDRESSINGS)
async def test_what_takes_long_to_read_is_read_beside_the_event_loop(
    log, monkeypatch, addressing, queries
) -> None:
    config = config_of(addressing)
    await filled(log, config=config)
    latent = vector_to_bytes(np.ones(config.prompt_size, np.float32))
    request = memory_pb2.ReadRequest(bank="b", prompt_latents=[latent] * queries)
    reading, read = noting_threads(BankState.read)
    monkeypatch.setattr(BankState, "read", lambda *args: reading(*args))
    answer = await MemoryService(log, both(log)).Read(request, None)
    assert len(answer.readouts) == queries
    assert read == [addressing != "slots" or queries > INLINE_READS]


async def test_facts_are_put_in_order_beside_the_event_loop(log, monkeypatch) -> None:
    await filled(log)
    listing, listed = noting_threads(Facts.__iter__)
    monkeypatch.setattr(Facts, "__iter__", lambda *args: listing(*args))
    service = MemoryService(log, both(log))
    page = await service.EnumerateFacts(memory_pb2.EnumerateFactsRequest(bank="b"), None)
    assert [fact.fact_id for fact in page.facts] == [f"fact {n}" for n in range(1, 7)]
    assert listed and all(listed)


async def test_a_version_that_is_not_written_yet_is_refused(log) -> None:
    await filled(log)
    follower = both(log)
    async with follower.state(TENANT, "b", 10) as state:
        assert state.version == 10
    with pytest.raises(FailedPrecondition, match="at version 10, not yet at 11") as caught:
        await state_of(follower, min_version=11)
    assert caught.value.reason == "VERSION_NOT_WRITTEN"
    await log.append(TENANT, "b", [write_of(CONFIG, "new", 1)])
    assert (await state_of(follower, min_version=11))[1]["version"] == "11"


async def test_an_unknown_bank_is_not_found_and_not_held(log) -> None:
    follower = both(log)
    with pytest.raises(NotFound) as caught:
        await state_of(follower, "nowhere")
    assert caught.value.reason == "UNKNOWN_BANK"
    await filled(log)
    await state_of(follower)
    await log.drop_bank(TENANT, "b")
    with pytest.raises(NotFound):
        await state_of(follower)
    assert follower.banks_held == 0 and follower.bytes_held == 0


@pytest.mark.parametrize("events", [0, 1, 9, 10, 12])
async def test_a_bank_that_was_dropped_and_made_anew_is_folded_again(log, events: int) -> None:
    """With fewer, as many, or more events than the follower had folded."""
    await filled(log)
    follower = both(log)
    before = await state_of(follower)
    await log.drop_bank(TENANT, "b")
    await log.make_bank(TENANT, "b", CONFIG)
    items = [write_of(CONFIG, f"anew {variant}", variant) for variant in range(events)]
    await log.append(TENANT, "b", items)
    after = await state_of(follower)
    assert after == frozen(await both(log).rebuilt(TENANT, "b")) != before
    assert after[1]["version"] == str(events)


@pytest.mark.parametrize("events", [0, 10])
async def test_a_bank_made_anew_has_its_own_configuration(log, events: int) -> None:
    """Also where the follower had folded nothing, and so has no chain to tell by."""
    if events:
        await filled(log)
    else:
        await log.make_bank(TENANT, "b", CONFIG)
    follower = both(log)
    await state_of(follower)
    await log.drop_bank(TENANT, "b")
    other = config_of("pinv")
    await log.make_bank(TENANT, "b", other)
    await log.append(TENANT, "b", [write_of(other, "new", 1)])
    async with follower.state(TENANT, "b") as state:
        assert state.config == other and state.facts.keys() == {"new"}


@pytest.mark.parametrize("addressing", ADDRESSINGS)
@pytest.mark.parametrize("parts", [("memory", "scope"), ("memory",), ("scope",)])
async def test_a_checkpoint_and_the_tail_give_the_bytes_of_a_full_replay(
    log, addressing: str, parts: tuple[str, ...]
) -> None:
    config = config_of(addressing)
    await filled(log, config=config)
    version, digest, size = await Follower(log, parts, BUDGET).save_checkpoint(TENANT, "b")
    assert version == 10 and size > 0
    items = [write_of(config, "fact 3", 90), forget_of("fact 4"), write_of(config, "late", 91)]
    await log.append(TENANT, "b", items)
    log.tails.clear()
    follower = Follower(log, parts, BUDGET)
    async with follower.state(TENANT, "b") as state:
        assert log.tails[0] == 10, "it began at the checkpoint"
        rebuilt = await follower.rebuilt(TENANT, "b")
        tensors, metadata = state.to_tensors()
        wanted, wanted_metadata = rebuilt.to_tensors()
        assert metadata == wanted_metadata and state.parts == parts
        assert {k: v.tobytes() for k, v in tensors.items()} == {
            k: v.tobytes() for k, v in wanted.items()
        }
        assert state.folded_sha256() == rebuilt.folded_sha256()
        assert state.digest() == rebuilt.digest() != digest


DAMAGE = {
    "a flipped bit": lambda blob, meta: (blob[:-9] + bytes([blob[-9] ^ 1]) + blob[-8:], meta),
    "cut short": lambda blob, meta: (blob[: len(blob) // 2], meta),
    "nothing": lambda blob, meta: (b"", meta),
    "noise": lambda blob, meta: (b"\xff" * 4096, meta),
    "another chain": lambda blob, meta: (blob, meta | {"chain": "0" * 40}),
    "no meta": lambda blob, meta: (blob, {}),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("older", [True, False])
async def test_a_damaged_checkpoint_is_skipped_for_an_older_one_or_none(
    log, damage: str, older: bool
) -> None:
    await filled(log)
    saver = both(log)
    await saver.save_checkpoint(TENANT, "b")
    await log.append(TENANT, "b", [write_of(CONFIG, "later", 50)])
    await saver.save_checkpoint(TENANT, "b")
    checkpoints = log._banks[TENANT, "b"].checkpoints
    for version in (11,) if older else (10, 11):
        key = ("memory", version)
        checkpoints[key] = DAMAGE[damage](*checkpoints[key])
    log.tails.clear()
    follower, before, skipped = both(log), checkpoint_counts(), 1 if older else 2
    assert await state_of(follower) == frozen(await saver.rebuilt(TENANT, "b"))
    assert log.tails[0] == (10 if older else 0)
    assert follower.banks_held == 1
    assert checkpoint_counts() == before | {
        "skipped": before["skipped"] + skipped,
        "damaged": before["damaged"] + skipped,
    }


async def test_a_checkpoint_of_another_history_is_skipped(log) -> None:
    """A store restored from a backup: the checkpoint is sound, the log under it has changed."""
    await filled(log)
    saver = both(log)
    await saver.save_checkpoint(TENANT, "b")
    checkpoints = dict(log._banks[TENANT, "b"].checkpoints)
    await log.drop_bank(TENANT, "b")
    await log.make_bank(TENANT, "b", CONFIG)
    await log.append(TENANT, "b", [write_of(CONFIG, f"anew {v}", v) for v in range(12)])
    log._banks[TENANT, "b"].checkpoints.update(checkpoints)
    follower, before = both(log), checkpoint_counts()
    async with follower.state(TENANT, "b") as state:
        assert state.facts.keys() == {f"anew {v}" for v in range(12)}
    assert checkpoint_counts() == before | {"outdated": before["outdated"] + 1}


async def test_a_checkpoint_of_another_configuration_is_skipped(log) -> None:
    other = dataclasses.replace(CONFIG, alpha=0.5)
    for bank, config in (("b", CONFIG), ("other", other)):
        await log.make_bank(TENANT, bank, config)
    await both(log).save_checkpoint(TENANT, "other")
    log._banks[TENANT, "b"].checkpoints.update(log._banks[TENANT, "other"].checkpoints)
    before = checkpoint_counts()
    async with both(log).state(TENANT, "b") as state:
        assert state.config == CONFIG
    assert checkpoint_counts() == before | {"outdated": before["outdated"] + 1}


async def test_a_follower_saves_a_checkpoint_when_one_is_due(log, monkeypatch) -> None:
    monkeypatch.setattr(follower_module, "MIN_CHECKPOINT_PAUSE_S", 0.0)
    monkeypatch.setattr(follower_module, "CHECKPOINT_SHARE", float("inf"))
    await filled(log)
    follower = both(log, checkpoint_every=10)

    async def saved() -> list[int]:
        await state_of(follower)
        await asyncio.gather(*follower._tasks)
        return [version for version, _ in await log.checkpoints(TENANT, "b", "memory")]

    assert await saved() == [10]
    await log.append(TENANT, "b", [write_of(CONFIG, f"new {v}", v) for v in range(9)])
    assert await saved() == [10]
    await log.append(TENANT, "b", [write_of(CONFIG, "new 9", 9)])
    assert await saved() == [20, 10]
    await log.drop_bank(TENANT, "b")
    await filled(log)
    assert await saved() == [10], "a bank made anew is not held to the versions of the old one"


async def test_checkpoints_keep_their_pause(log, monkeypatch) -> None:
    monkeypatch.setattr(follower_module, "MIN_CHECKPOINT_PAUSE_S", 600.0)
    await filled(log)
    follower = both(log, checkpoint_every=1)
    for variant in range(3):
        await log.append(TENANT, "b", [write_of(CONFIG, f"new {variant}", variant)])
        await state_of(follower)
        await asyncio.gather(*follower._tasks)
    assert [version for version, _ in await log.checkpoints(TENANT, "b", "memory")] == [11]


async def test_a_checkpoint_that_cannot_be_saved_does_not_harm_a_read(log, monkeypatch) -> None:
    async def refuse(*args):
        raise Unavailable("the store does not answer", "STORE_DOWN")

    monkeypatch.setattr(follower_module, "MIN_CHECKPOINT_PAUSE_S", 0.0)
    await filled(log)
    follower = both(log, checkpoint_every=1)
    with monkeypatch.context() as store:
        store.setattr(log, "put_checkpoint", refuse)
        await state_of(follower)
        await asyncio.gather(*follower._tasks)
    await state_of(follower)
    await asyncio.gather(*follower._tasks)
    assert [version for version, _ in await log.checkpoints(TENANT, "b", "memory")] == [10]


async def test_each_part_has_checkpoints_of_its_own(log, monkeypatch) -> None:
    monkeypatch.setattr(follower_module, "MIN_CHECKPOINT_PAUSE_S", 0.0)
    await filled(log)
    for part in ("scope", "memory"):
        follower = Follower(log, (part,), BUDGET, checkpoint_every=1)
        assert await log.checkpoints(TENANT, "b", part) == []
        async with follower.state(TENANT, "b"):
            pass
        await asyncio.gather(*follower._tasks)
        assert [at for at, _ in await log.checkpoints(TENANT, "b", part)] == [10]
        log.tails.clear()
        async with Follower(log, (part,), BUDGET).state(TENANT, "b") as state:
            assert state.parts == (part,) and set(log.tails) == {10}


def lose_an_entry(held) -> None:
    del held.entries[4]


def garble_a_payload(held) -> None:
    held.entries[4].salted = held.entries[4].salted[:16] + b"LRM1" + b"\0" * 40


def swap_payloads(held) -> None:
    four, five = held.entries[4], held.entries[5]
    four.salted, five.salted = five.salted, four.salted


@pytest.mark.parametrize("damage", [lose_an_entry, garble_a_payload, swap_payloads])
async def test_a_damaged_log_stops_its_bank_until_it_is_repaired_and_no_other(
    log, damage, monkeypatch
) -> None:
    monkeypatch.setattr(follower_module, "STOPPED_S", 0.0)
    await filled(log)
    await filled(log, "sound")
    follower = both(log)
    wanted = await state_of(follower)
    held = log._banks[TENANT, "b"]
    entries = [dataclasses.replace(entry) for entry in held.entries]
    damage(held)
    follower = both(log)
    for _ in range(2):
        with pytest.raises(DataLoss):
            await state_of(follower)
        await state_of(follower, "sound")
    assert follower.banks_held == 1
    held.entries[:] = entries
    assert await state_of(follower) == wanted


async def test_damage_behind_a_follower_stops_it_at_the_new_entry(log, monkeypatch) -> None:
    await filled(log)
    follower = both(log)
    await state_of(follower)
    await log.append(TENANT, "b", [write_of(CONFIG, "new", 1)])
    monkeypatch.setattr(follower_module, "STOPPED_S", 600.0)
    held = log._banks[TENANT, "b"]
    sound = held.entries[10].salted
    held.entries[10].salted = b"noise"
    with pytest.raises(DataLoss):
        await state_of(follower)
    assert follower.banks_held == 0, "a stopped bank answers nothing, old versions neither"
    held.entries[10].salted = sound
    with pytest.raises(DataLoss):
        await state_of(follower)
    monkeypatch.setattr(follower_module, "STOPPED_S", 0.0)
    assert (await state_of(follower))[1]["version"] == "11"


async def test_a_store_out_of_reach_is_not_damage(log) -> None:
    await filled(log)
    follower = both(log)
    wanted = await state_of(follower)
    log.down = True
    with pytest.raises(Unavailable):
        await state_of(follower)
    with pytest.raises(Unavailable):
        await state_of(both(log))
    log.down = False
    log.tails.clear()
    assert await state_of(follower) == wanted
    assert log.tails == [10], "what was folded is kept"


async def test_idle_banks_are_dropped_least_recently_used_first_and_come_back_equal(log) -> None:
    banks = [f"bank-{n}" for n in range(5)]
    for bank in banks:
        await filled(log, bank)
    wanted = {bank: await state_of(both(log), bank) for bank in banks}
    async with both(log).state(TENANT, banks[0]) as state:
        size = state.bytes_held
    follower = both(log, state_budget_bytes=int(2.5 * size))
    for bank in banks:
        await state_of(follower, bank)
        assert follower.bytes_held <= 2.5 * size
    assert follower.banks_held == 2

    async def cold(bank: str) -> bool:
        log.tails.clear()
        assert await state_of(follower, bank) == wanted[bank]
        return log.tails[0] == 0

    assert [await cold(bank) for bank in ("bank-3", "bank-4", "bank-3")] == [False] * 3
    assert await cold("bank-0")
    assert not await cold("bank-3"), "bank-4 was used less recently"
    assert await cold("bank-4")


async def test_a_checkpoint_of_an_earlier_bank_of_the_name_is_not_served(log) -> None:
    """Also where it has the very version that is asked for, so that no entry follows it."""
    await filled(log)
    await both(log).save_checkpoint(TENANT, "b")
    left = log._banks[TENANT, "b"].checkpoints
    await log.drop_bank(TENANT, "b")
    await log.make_bank(TENANT, "b", CONFIG)
    items = [write_of(CONFIG, f"anew {variant}", variant) for variant in range(12)]
    await log.append(TENANT, "b", items)
    log._banks[TENANT, "b"].checkpoints = left
    async with both(log).view(TENANT, "b", at_version=10) as view:
        assert set(view.state.facts) == {f"anew {variant}" for variant in range(10)}


async def test_what_is_held_is_known_without_looking_at_every_bank(log, monkeypatch) -> None:
    """Whatever becomes of the banks: read, grown, past, damaged, removed, made anew, dropped."""
    for bank in ("a", "b", "c", "d"):
        await filled(log, bank)
    follower = both(log)
    summed = Follower.bytes_held
    for _ in range(2):
        with monkeypatch.context() as patched:
            patched.setattr(Follower, "bytes_held", property(lambda _: 1 / 0))
            for bank in ("a", "b", "c"):
                await state_of(follower, bank)
            for version in range(1, 10):
                async with follower.view(TENANT, "a", at_version=version):
                    pass
            with pytest.raises(FailedPrecondition):
                async with follower.view(TENANT, "a", at_version=99):
                    pass
        await log.append(TENANT, "b", [write_of(CONFIG, f"more {n}", n) for n in range(40)])
        await state_of(follower, "b")
        await log.drop_bank(TENANT, "c")
        with pytest.raises(NotFound):
            await state_of(follower, "c")
        await filled(log, "c")
        assert follower._counted_bytes == summed.fget(follower) > 0
        assert follower._past_keys.keys() == {key for key in follower._held if key[2]}
    log._banks[TENANT, "d"].entries[4].salted = b"noise"
    with pytest.raises(DataLoss):
        await state_of(follower, "d")
    follower.state_budget_bytes = 1
    await state_of(follower, "a")
    assert follower.banks_held == 1
    assert follower._counted_bytes == summed.fget(follower) > 0


async def test_one_bank_larger_than_the_budget_is_still_served(log) -> None:
    await filled(log)
    follower = both(log, state_budget_bytes=1)
    await state_of(follower)
    log.tails.clear()
    await state_of(follower)
    assert log.tails == [10]


async def test_a_bank_in_use_is_not_dropped(log) -> None:
    await filled(log, "used")
    await filled(log, "other")
    follower = both(log, state_budget_bytes=1)
    async with follower.state(TENANT, "used") as state:
        before = frozen(state)
        await state_of(follower, "other")
        assert frozen(state) == before and follower.banks_held == 2


@pytest.mark.parametrize("addressing", ADDRESSINGS)
async def test_two_followers_have_one_digest_in_whatever_steps_they_fold(
    log, monkeypatch, addressing: str
) -> None:
    config = config_of(addressing)
    await filled(log, config=config, n=6)
    slow, quick = both(log), both(log)
    await state_of(slow)
    items = [write_of(config, f"fact {v % 5}", v + 100) for v in range(20)]
    for low in range(0, 20, 7):
        await log.append(TENANT, "b", items[low : low + 7])
        monkeypatch.setattr(folding, "TAIL_EVENTS", 2 + low)
        await state_of(slow)
    monkeypatch.setattr(folding, "TAIL_EVENTS", 1000)
    assert await state_of(slow) == await state_of(quick)


async def test_banks_of_two_tenants_are_two_banks(log) -> None:
    await filled(log)
    await log.make_bank("other", "b", CONFIG)
    follower = both(log)
    await state_of(follower)
    async with follower.state("other", "b") as state:
        assert len(state) == 0
    assert follower.banks_held == 2
