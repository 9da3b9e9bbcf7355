"""Erasure over the log in this process: each step, each interruption, the receipt, the ledger."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from larimar.errors import (
    Conflict,
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unavailable,
)
from larimar.memory import Kind
from larimar.payload import MAX_ID_BYTES
from larimar.v1 import common_pb2
from services.follower import Follower
from services.log import MemoryLog
from services.memory import erasure as erasure_module
from services.memory import restoring
from services.memory.erasure import Eraser, NoQueues
from services.memory.jobs import Job, record_name
from services.memory.ledger import EraseLedger, Erasure, hashed
from services.memory.scan import needles_of, search_files, without_shared
from tests.banks import ADDRESSINGS, config_of, payload_of
from tests.events import eventually
from tests.following import (
    BUDGET,
    CONFIG,
    TENANT,
    both,
    erase_of,
    filled,
    forget_of,
    state_of,
    write_of,
)

DONE = common_pb2.ERASE_STEP_DONE
STEPS = range(common_pb2.ERASE_STEP_APPENDED, DONE)


class Died(Exception):
    """The worker is gone."""


@contextlib.asynccontextmanager
async def eraser(log: Any, **settings: Any) -> AsyncIterator[Eraser]:
    """A worker of its own; nothing of it is left at the end."""
    ledger = settings.pop("ledger", EraseLedger(None))
    queues = settings.pop("queues", NoQueues())
    made = Eraser(log, Follower(log, ("memory",), BUDGET), queues, ledger, **settings)
    try:
        yield made
    finally:
        await made.close()


async def finished(worker: Eraser, bank: str, event_id: str) -> common_pb2.EraseReceipt:
    """The receipt, once nothing of this worker runs any more."""
    while worker._running:
        await asyncio.gather(*worker._running.values(), return_exceptions=True)
        await asyncio.sleep(0)
    return await worker.receipt(TENANT, bank, event_id)


async def erased(log: Any, bank: str, ids: list[str], event_id: str = "x", **settings: Any):
    async with eraser(log, **settings) as worker:
        await worker.erase(TENANT, bank, ids, event_id)
        return await finished(worker, bank, event_id)


async def family_of(log: MemoryLog, addressing: str) -> None:
    """A bank with two forks: one holds the fact `fact 3` in a newer form, one never knew it."""
    config = config_of(addressing)
    await filled(log, config=config)
    await log.fork(TENANT, "b", "holds", 10)
    await log.fork(TENANT, "b", "never", 2)
    await log.append(TENANT, "holds", [write_of(config, "fact 3", 40)])
    await log.append(TENANT, "never", [write_of(config, "own", 41)])
    for bank in ("b", "holds", "never"):
        for part in ("memory", "scope"):
            await Follower(log, (part,), BUDGET).save_checkpoint(TENANT, bank)


@pytest.mark.parametrize("addressing", ADDRESSINGS)
async def test_the_receipt_of_a_family(addressing) -> None:
    log = MemoryLog()
    await family_of(log, addressing)
    needles = [b'"prompt 40"', b'"fact_id":"fact 3"']
    assert (await log.search(TENANT, "b", needles)).found, "else a search proves nothing"
    receipt = await erased(log, "b", ["fact 3", "fact 4"])
    assert (receipt.step, receipt.failure, receipt.bank) == (DONE, "", "b")
    assert list(receipt.fact_id_sha256) == [hashed("fact 3"), hashed("fact 4")]
    banks = {one.bank: one for one in receipt.banks}
    versions = {name: list(one.versions) for name, one in banks.items()}
    assert versions == {"b": [11, 12], "holds": [12, 13], "never": []}
    assert all(one.replay_matches and one.erase_count == 2 for one in banks.values())
    assert receipt.scan.found_before > 0 == receipt.scan.found and receipt.scan.keys > 0
    assert receipt.payloads_removed == 3 and receipt.finished_ms >= receipt.started_ms > 0
    # Two parts of two banks had a checkpoint each that had folded the facts.
    assert receipt.checkpoints_removed == 4
    assert not (await log.search(TENANT, "b", needles)).found
    assert "fact 3" not in str(receipt) and not await log.jobs()
    for bank, one in banks.items():
        verified = await both(log).verified(TENANT, bank)
        assert verified.matches and (verified.version, verified.digest) == (one.version, one.digest)


@pytest.mark.parametrize("kind", ["live", "forgotten", "replaced"])
async def test_what_is_erased_need_not_be_live(kind) -> None:
    log = MemoryLog()
    await filled(log)
    if kind == "forgotten":
        await log.append(TENANT, "b", [forget_of("fact 3")])
    if kind == "replaced":
        await log.append(TENANT, "b", [write_of(CONFIG, "fact 3", 50)])
    receipt = await erased(log, "b", ["fact 3"])
    assert receipt.step == DONE and receipt.payloads_removed == 1 + (kind == "replaced")
    (refused,) = await log.append(TENANT, "b", [write_of(CONFIG, "fact 3", 60)])
    assert refused.error is not None and refused.error.reason == "ERASED"


async def test_nothing_is_erased_where_one_fact_cannot_be() -> None:
    log = MemoryLog()
    await filled(log)
    await erased(log, "b", ["fact 5"])
    before = await state_of(both(log))
    async with eraser(log) as worker:
        for ids, refusal, reason in (
            (["fact 3", "never"], NotFound, "UNKNOWN_FACT"),
            (["fact 3", "fact 5"], FailedPrecondition, "ERASED"),
            ([], InvalidArgument, "INVALID_ARGUMENT"),
            ([f"f{n}" for n in range(257)], InvalidArgument, "INVALID_ARGUMENT"),
        ):
            with pytest.raises(refusal) as caught:
                await worker.erase(TENANT, "b", ids, "other")
            assert caught.value.reason == reason
        with pytest.raises(NotFound) as caught:
            await worker.receipt(TENANT, "b", "other")
        assert caught.value.reason == "UNKNOWN_ERASURE"
    assert await state_of(both(log)) == before and not await log.jobs()


async def test_the_same_event_id_is_the_same_erasure() -> None:
    log = MemoryLog()
    await filled(log)
    first = await erased(log, "b", ["fact 3", "fact 4"])
    assert await erased(log, "b", ["fact 4", "fact 3", "fact 3"]) == first
    with pytest.raises(Conflict):
        await erased(log, "b", ["fact 3"])
    assert (await log.head(TENANT, "b"))[0] == 12


@pytest.mark.parametrize("used", ["x", "x:1"])
@pytest.mark.parametrize("addressing", ADDRESSINGS)
async def test_an_erasure_under_an_event_id_of_another_request_erases_nothing(
    addressing, used
) -> None:
    log, config = MemoryLog(), config_of(addressing)
    await filled(log, config=config)
    await log.append(TENANT, "b", [write_of(config, "fact 1", 60, used)])
    before = await state_of(both(log))
    async with eraser(log) as worker:
        with pytest.raises(Conflict):
            await worker.erase(TENANT, "b", ["fact 3", "fact 4"], "x")
        with pytest.raises(NotFound):
            await worker.receipt(TENANT, "b", "x")
        assert not await log.jobs() and await worker.take_up(left_s=-1.0) == 0
        with pytest.raises(InvalidArgument):
            await worker.erase(TENANT, "b", ["fact 3", "fact 4"], "x" * MAX_ID_BYTES)
    assert await state_of(both(log)) == before
    assert (await erased(log, "b", ["fact 3", "fact 4"], "y")).step == DONE


@pytest.mark.parametrize("facts", [["fact 3"], ["fact 3", "fact 4"]])
async def test_the_event_id_of_an_erasure_is_no_other_request_s(facts) -> None:
    log = MemoryLog()
    await filled(log)
    await erased(log, "b", facts, "x")
    for edit in (write_of(CONFIG, "fresh", 7, "x"), forget_of("fact 1", "x")):
        (refused,) = await log.append(TENANT, "b", [edit])
        assert refused.error is not None and refused.error.reason == "CONFLICT"


async def test_an_erasure_that_was_appended_under_older_event_ids_is_gone_on_with() -> None:
    """Of a release that numbered the events of an erasure of several facts from 0."""
    log, ids = MemoryLog(), ["fact 3", "fact 4"]
    await filled(log)
    hashes = [hashed(fact_id) for fact_id in ids]
    receipt = common_pb2.EraseReceipt(event_id="x", bank="b", fact_id_sha256=hashes, started_ms=1)
    job = Job(TENANT, ids, receipt)
    await log.put_record(TENANT, "b", job.name, job.text("gone"), new=True)
    await log.put_job(TENANT, "b", job.name)
    await log.erase(TENANT, "b", [erase_of(ids[0], "x:0"), erase_of(ids[1], "x:1")])
    async with eraser(log) as worker:
        assert await worker.take_up(left_s=-1.0) == 1
        receipt = await finished(worker, "b", "x")
    assert (receipt.step, receipt.failure, list(receipt.banks[0].versions)) == (DONE, "", [11, 12])
    assert (await log.head(TENANT, "b"))[0] == 12 and not await log.jobs()


@pytest.mark.parametrize("addressing", ADDRESSINGS)
@pytest.mark.parametrize("step", STEPS)
async def test_work_that_was_left_after_any_step_is_taken_up(addressing, step) -> None:
    log = MemoryLog()
    await family_of(log, addressing)

    async def die(receipt: common_pb2.EraseReceipt) -> None:
        if receipt.step == step:
            raise Died

    async with eraser(log, on_step=die) as worker:
        with contextlib.suppress(Died):  # in the first step its caller hears of it
            await worker.erase(TENANT, "b", ["fact 3"], "x")
        receipt = await finished(worker, "b", "x")
        assert receipt.step == step and await log.jobs()
    assert "fact 3" not in (await state_of(both(log)))[2], "at once, whatever is left to do"
    async with eraser(log) as other:
        assert await other.take_up(left_s=1000.0) == 0, "its worker may still be at it"
        assert await other.take_up(left_s=-1.0) == 1
        receipt = await finished(other, "b", "x")
    assert (receipt.step, receipt.failure, receipt.scan.found) == (DONE, "", 0)
    assert all(one.replay_matches for one in receipt.banks) and not await log.jobs()
    searched = step < common_pb2.ERASE_STEP_CHECKPOINTED
    assert bool(receipt.scan.not_searched) or searched, "a search not made is not claimed"
    assert not (await log.search(TENANT, "b", [b"prompt 40"])).found


async def left_after(log: Any, bank: str, step: int, tenant: str = TENANT) -> None:
    """An erasure of fact 3 from a bank whose worker dies after a step."""

    async def die(receipt: common_pb2.EraseReceipt) -> None:
        if receipt.step == step:
            raise Died

    async with eraser(log, on_step=die) as worker:
        with contextlib.suppress(Died):
            await worker.erase(tenant, bank, ["fact 3"], "x")
        while worker._running:
            await asyncio.gather(*worker._running.values(), return_exceptions=True)
            await asyncio.sleep(0)


@pytest.mark.parametrize("step", STEPS)
async def test_the_erasure_of_a_bank_that_was_deleted_holds_up_no_other(step) -> None:
    log = MemoryLog()
    await filled(log, "a")
    await log.make_bank("other", "b", CONFIG)
    await log.append("other", "b", [write_of(CONFIG, "fact 3", 1)])
    await log.make_bank(TENANT, "odd", CONFIG)
    await left_after(log, "a", step)
    await left_after(log, "b", step, "other")
    await log.put_record(TENANT, "odd", "erase:odd:x", "not JSON", new=True)
    await log.put_job(TENANT, "odd", "erase:odd:x")
    await log.drop_bank(TENANT, "a")
    async with eraser(log) as worker:
        assert await worker.take_up(left_s=-1.0) == 1
        await asyncio.gather(*worker._running.values())
        assert (await worker.receipt("other", "b", "x")).step == DONE
    assert await log.jobs() == [(TENANT, "odd", "erase:odd:x")]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("begun_in", ["b", "holds"])
async def test_an_erasure_ends_though_a_fork_was_deleted_on_the_way(step, begun_in) -> None:
    log = MemoryLog()
    await family_of(log, "pinv")
    await left_after(log, begun_in, step)
    await log.drop_bank(TENANT, "holds")
    async with eraser(log) as worker:
        assert await worker.take_up(left_s=-1.0) == 1
        await asyncio.gather(*worker._running.values())
    text = await log.record(TENANT, "b", record_name(begun_in, "x"))
    assert text is not None
    receipt = Job.parse(TENANT, text)[0].receipt
    assert (receipt.step, receipt.failure) == (DONE, "") and not await log.jobs()
    assert [one.bank for one in receipt.banks] == ["b", "never"]
    assert all(one.replay_matches for one in receipt.banks)
    assert not (await log.search(TENANT, "b", [b"prompt 40", b"prompt 3"])).found


class Noted:
    """Queues that note what they are asked to remove."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def remove_facts(self, tenant, bank, fact_ids):
        """As Queues.remove_facts."""
        self.asked.append(bank)
        return 0


@pytest.mark.parametrize("step", STEPS)
async def test_a_bank_made_anew_during_an_erasure_keeps_its_facts_and_its_queue(step) -> None:
    log, queues = MemoryLog(), Noted()
    await filled(log)

    async def anew(receipt: common_pb2.EraseReceipt) -> None:
        if receipt.step == step:
            await log.drop_bank(TENANT, "b")
            await filled(log)
            queues.asked.clear()

    async with eraser(log, queues=queues, on_step=anew) as worker:
        await worker.erase(TENANT, "b", ["fact 3"], "x")
        with pytest.raises(NotFound):
            await finished(worker, "b", "x")
        assert await worker.take_up(left_s=-1.0) == 0
    assert not queues.asked and not await log.jobs()
    assert await log.record(TENANT, "b", record_name("b", "x")) is None
    assert "fact 3" in (await state_of(both(log)))[2] and not await log.erased(TENANT, "b")


async def test_a_worker_at_a_long_step_sees_that_its_bank_was_made_anew(monkeypatch) -> None:
    monkeypatch.setattr(erasure_module, "PAUSE_S", 0.01)
    log, reached = MemoryLog(), asyncio.Event()
    await filled(log)

    async def hold(receipt: common_pb2.EraseReceipt) -> None:
        if receipt.step == common_pb2.ERASE_STEP_CHECKPOINTED:
            await log.drop_bank(TENANT, "b")
            await filled(log)
            reached.set()
            await asyncio.Event().wait()

    async def is_over() -> bool:
        return not await log.jobs()

    async with eraser(log, on_step=hold) as worker:
        await worker.erase(TENANT, "b", ["fact 3"], "x")
        await reached.wait()
        await eventually(is_over)
    assert await log.record(TENANT, "b", record_name("b", "x")) is None


@pytest.mark.parametrize("step", STEPS)
async def test_another_erasure_under_the_name_is_not_taken_for_this_one(step) -> None:
    log = MemoryLog()
    await filled(log)
    later: list[str] = []

    async def anew(receipt: common_pb2.EraseReceipt) -> None:
        if receipt.step == step:
            await log.drop_bank(TENANT, "b")
            await filled(log)
            await asyncio.sleep(0.002)  # or both would have begun in one millisecond
            await left_after(log, "b", common_pb2.ERASE_STEP_CHECKPOINTED)
            text = await log.record(TENANT, "b", record_name("b", "x"))
            later.append(text or "")

    async with eraser(log, on_step=anew) as worker:
        with contextlib.suppress(NotFound):
            await worker.erase(TENANT, "b", ["fact 3"], "x")
        await finished(worker, "b", "x")
        assert [await log.record(TENANT, "b", record_name("b", "x"))] == later
        assert await log.jobs() == [(TENANT, "b", record_name("b", "x"))]


@pytest.mark.parametrize("step", STEPS)
async def test_an_erasure_goes_on_in_the_bank_that_took_its_place(step) -> None:
    log, queues = MemoryLog(), Noted()
    await filled(log)

    async def switched(receipt: common_pb2.EraseReceipt) -> None:
        if receipt.step == step:
            version, chain, _ = await log.head(TENANT, "b")
            stored = await log.stored(TENANT, "b", 0, 1000)
            await log.load(TENANT, "b", stored, "new", True)
            gone = sorted(await log.erased(TENANT, "b"))
            await log.publish(TENANT, "b", CONFIG, gone, version, "new", (version, chain))
            queues.asked.clear()

    receipt = await erased(log, "b", ["fact 3"], queues=queues, on_step=switched)
    assert (receipt.step, receipt.failure) == (DONE, "") and not await log.jobs()
    assert [one.replay_matches for one in receipt.banks] == [True]
    assert queues.asked == (["b"] if step < common_pb2.ERASE_STEP_REMOVED else [])


@pytest.mark.parametrize("taken_up", [False, True])
@pytest.mark.parametrize("step", STEPS)
async def test_an_erasure_ends_in_its_family_though_its_fork_was_made_anew(step, taken_up) -> None:
    log, queues = MemoryLog(), Noted()
    await family_of(log, "pinv")

    async def anew(receipt: common_pb2.EraseReceipt) -> None:
        if receipt.step == step:
            await log.drop_bank(TENANT, "holds")
            await filled(log, "holds", config_of("pinv"))
            if taken_up:
                raise Died

    async with eraser(log, queues=queues, on_step=anew) as worker:
        with contextlib.suppress(Died):
            await worker.erase(TENANT, "holds", ["fact 3"], "x")
        while worker._running:
            await asyncio.gather(*worker._running.values(), return_exceptions=True)
            await asyncio.sleep(0)
        assert await worker.take_up(left_s=-1.0) == taken_up
        await finished_all(worker)
    text = await log.record(TENANT, "b", record_name("holds", "x"))
    assert text is not None
    receipt = Job.parse(TENANT, text)[0].receipt
    assert (receipt.step, receipt.failure) == (DONE, "") and not await log.jobs()
    assert [one.bank for one in receipt.banks] == ["b", "never"]
    if step < common_pb2.ERASE_STEP_REMOVED:
        assert queues.asked == ["b", "never"], "and not those of the bank made anew"
    assert "fact 3" in (await state_of(both(log), "holds"))[2]
    assert await log.remove_payloads(TENANT, "b", ["fact 3"]) == 0


@pytest.mark.parametrize("method", ["family", "search", "rewrite_files", "remove_payloads"])
async def test_a_worker_that_tries_again_still_knows_what_to_search_for(
    method, monkeypatch
) -> None:
    log = MemoryLog()
    await filled(log)
    right = getattr(log, method)
    failures: list[int] = []

    async def fails_once(*args: Any) -> Any:
        if not failures:
            failures.append(1)
            raise Unavailable("the store does not answer", "STORE_DOWN")
        return await right(*args)

    async with eraser(log) as worker:
        needles = worker._evidence.needles

        async def then_fails(*args: Any) -> list[bytes]:
            monkeypatch.setattr(log, method, fails_once)
            return await needles(*args)

        monkeypatch.setattr(worker._evidence, "needles", needles if failures else then_fails)
        with contextlib.suppress(Unavailable):
            await worker.erase(TENANT, "b", ["fact 3"], "x")
        await finished(worker, "b", "x")
        assert failures
        await worker.take_up()
        receipt = await finished(worker, "b", "x")
        assert (receipt.step, receipt.scan.not_searched) == (DONE, "")
        assert receipt.scan.found_before > 0 == receipt.scan.found and not worker._needles


@pytest.mark.parametrize("call", range(40))
async def test_a_store_that_fails_at_any_call_is_no_more_than_a_pause(call) -> None:
    log = MemoryLog()
    await family_of(log, "pinv")

    class Failing:
        left = call

        def __getattr__(self, name: str) -> Any:
            async def once(*args: Any, **settings: Any) -> Any:
                self.left -= 1
                if self.left == -1:
                    if call % 2:
                        await getattr(log, name)(*args, **settings)
                    raise Unavailable("the store does not answer", "STORE_DOWN")
                return await getattr(log, name)(*args, **settings)

            return once

    async with eraser(Failing()) as worker:
        for _ in range(3):
            with contextlib.suppress(Unavailable):
                await worker.erase(TENANT, "b", ["fact 3"], "x")
                break
        with contextlib.suppress(Unavailable):
            await finished(worker, "b", "x")
        await worker.take_up()
        receipt = await finished(worker, "b", "x")
    assert (receipt.step, receipt.failure, receipt.scan.found) == (DONE, "", 0)
    kinds = [event.kind for event in await log.fact_events(TENANT, "b", "fact 3")]
    assert kinds.count(Kind.ERASE) == 1 and not await log.jobs()


async def test_two_workers_at_one_erasure_do_not_set_it_back() -> None:
    log = MemoryLog()
    await family_of(log, "slots")
    async with eraser(log) as one, eraser(log) as other:
        await asyncio.gather(
            one.erase(TENANT, "b", ["fact 3"], "x"), other.erase(TENANT, "b", ["fact 3"], "x")
        )
        receipts = [await finished(worker, "b", "x") for worker in (one, other)]
    assert receipts[0] == receipts[1] and receipts[0].step == DONE
    assert not await log.jobs()


async def test_queued_events_of_the_fact_go_too() -> None:
    asked = []

    class Queues:
        async def remove_facts(self, tenant, bank, fact_ids):
            asked.append((tenant, bank, list(fact_ids)))
            return 2

    log = MemoryLog()
    await family_of(log, "slots")
    receipt = await erased(log, "holds", ["fact 3"], queues=Queues())
    assert asked == [(TENANT, bank, ["fact 3"]) for bank in ("b", "holds", "never")]
    assert receipt.queue_entries_removed == 6


async def test_nobody_who_reads_the_record_of_a_finished_erasure_learns_the_fact_id() -> None:
    log = MemoryLog()
    await filled(log)
    await erased(log, "b", ["fact 3"])
    text = await log.record(TENANT, "b", record_name("b", "x"))
    assert text is not None and "fact 3" not in text and hashed("fact 3") in text


async def test_what_other_facts_share_is_not_counted_as_left() -> None:
    """Other facts say the same, one of them forgotten: their bytes stay, in their own right."""
    log = MemoryLog()
    await filled(log)
    twins = [write_of(CONFIG, "twin", 3), write_of(CONFIG, "past", 30), forget_of("past")]
    await log.append(TENANT, "b", twins)
    receipt = await erased(log, "b", ["fact 3"])
    assert (receipt.step, receipt.scan.found) == (DONE, 0) and receipt.scan.found_before > 0
    assert "twin" in (await state_of(both(log)))[2]


async def test_a_copy_of_the_bank_keeps_the_fact_and_holds_nothing_up() -> None:
    log = MemoryLog()
    await filled(log)
    await log.load(TENANT, "copy", await log.stored(TENANT, "b", 0, 1000))
    await log.publish(TENANT, "copy", CONFIG, [], 10)
    receipt = await erased(log, "b", ["fact 3"])
    assert (receipt.step, receipt.failure, receipt.scan.found) == (DONE, "", 0)
    assert receipt.scan.found_before > 0 and "other banks" in receipt.scan.not_searched
    assert "fact 3" in (await state_of(both(log), "copy"))[2]


async def test_the_ledger_takes_out_of_a_restored_bank_what_was_erased(tmp_path: Path) -> None:
    ledger = EraseLedger(tmp_path / "kept" / "ledger.jsonl")
    log, backup = MemoryLog(), MemoryLog()
    await filled(log)
    stored = await log.stored(TENANT, "b", 0, 1000)
    await erased(log, "b", ["fact 3"], ledger=ledger)
    (line,) = ledger.entries()
    assert (line.bank, line.fact_id_sha256, line.version) == ("b", hashed("fact 3"), 11)
    assert "fact 3" not in (tmp_path / "kept" / "ledger.jsonl").read_text()
    await backup.load(TENANT, "another-name", stored)
    await backup.publish(TENANT, "another-name", CONFIG, [], 10)
    assert "fact 3" in (await state_of(both(backup), "another-name"))[2]
    async with eraser(backup, ledger=ledger) as worker:
        assert await worker.restoring.erase_again(TENANT, "another-name") == 1
        assert await worker.restoring.erase_again(TENANT, "another-name") == 0
        await finished_all(worker)
    assert "fact 3" not in (await state_of(both(backup), "another-name"))[2]
    assert await backup.remove_payloads(TENANT, "another-name", ["fact 3"]) == 0


async def test_two_tenants_with_one_archive_have_a_ledger_line_each(tmp_path: Path) -> None:
    ledger = EraseLedger(tmp_path / "ledger.jsonl")
    origin = MemoryLog()
    await filled(origin)
    stored = await origin.stored(TENANT, "b", 0, 1000)
    tenants = ("one", "other")

    async def imported() -> MemoryLog:
        log = MemoryLog()
        for tenant in tenants:
            await log.load(tenant, "b", stored)
            await log.publish(tenant, "b", CONFIG, [], 10)
        return log

    async with eraser(await imported(), ledger=ledger) as worker:
        for tenant in tenants:
            await worker.erase(tenant, "b", ["fact 3"], "x")
        await finished_all(worker)
    assert [line.tenant for line in ledger.entries()] == list(tenants)
    backup = await imported()
    async with eraser(backup, ledger=ledger) as worker:
        await worker.restoring.restored()
        await finished_all(worker)
    for tenant in tenants:
        assert await backup.erased(tenant, "b") == {"fact 3"}, "back after a restore"


async def finished_all(worker: Eraser) -> None:
    await asyncio.gather(*worker._running.values())


async def test_a_keeper_erases_again_in_every_restored_bank(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(erasure_module, "PAUSE_S", 0.01)
    ledger = EraseLedger(tmp_path / "ledger.jsonl")
    log, backup = MemoryLog(), MemoryLog()
    await filled(log)
    stored = await log.stored(TENANT, "b", 0, 1000)
    await erased(log, "b", ["fact 3"], ledger=ledger)
    await backup.load(TENANT, "b", stored)
    await backup.publish(TENANT, "b", CONFIG, [], 10)
    async with eraser(backup, ledger=ledger) as worker:
        worker.keep()
        worker.keep()
        await eventually(lambda: backup.erased(TENANT, "b"))
    assert await backup.erased(TENANT, "b") == {"fact 3"}


async def test_an_import_that_was_cut_off_keeps_nothing_of_an_erased_fact(
    tmp_path: Path, monkeypatch
) -> None:
    """Neither one from before the erasure, which no search of the family finds, nor a later one."""
    log, ledger = MemoryLog(), EraseLedger(tmp_path / "ledger.jsonl")
    await filled(log)
    stored = await log.stored(TENANT, "b", 0, 1000)
    await log.load(TENANT, "copy", stored[:6])
    await log.make_bank(TENANT, "other", CONFIG)
    await log.append(TENANT, "other", [write_of(CONFIG, "fact 1", 1)])
    others = await log.stored(TENANT, "other", 0, 1000)
    await log.load(TENANT, "goes-on", others)
    receipt = await erased(log, "b", ["fact 3"], ledger=ledger)
    assert receipt.step == DONE
    assert await log.load(TENANT, "copy", []) == (0, "")
    assert (await log.load(TENANT, "goes-on", []))[0] == 1
    await log.load(TENANT, "copy", stored[:6])
    rewrites = []

    async def rewrite_files() -> list[str]:
        rewrites.append(True)
        return []

    monkeypatch.setattr(log, "rewrite_files", rewrite_files)
    async with eraser(log, ledger=ledger) as worker:
        await worker.restoring.sweep_abandoned()
        assert (await log.load(TENANT, "copy", []))[0] == 6 and not rewrites
        monkeypatch.setattr(restoring, "ABANDONED_LOAD_S", -1.0)
        worker.keep()

        async def swept() -> bool:
            return bool(rewrites)

        await eventually(swept)
    assert await log.load(TENANT, "copy", []) == (0, "")
    assert await log.load(TENANT, "goes-on", []) == (0, "")


class Damaged(MemoryLog):
    """A log of which one bank cannot be read while `is_damaged`."""

    is_damaged = True

    async def events(self, tenant: str, bank: str, after: int, limit: int):
        """As Log.events."""
        if self.is_damaged and bank == "bad":
            raise DataLoss("an entry is not there", "GAP")
        return await super().events(tenant, bank, after, limit)


async def test_a_damaged_bank_keeps_no_other_from_being_restored(tmp_path: Path) -> None:
    ledger = EraseLedger(tmp_path / "ledger.jsonl")
    log, backup = MemoryLog(), Damaged()
    await filled(log)
    stored = await log.stored(TENANT, "b", 0, 1000)
    await erased(log, "b", ["fact 3"], ledger=ledger)
    for bank in ("bad", "sound"):
        await backup.load(TENANT, bank, stored)
        await backup.publish(TENANT, bank, CONFIG, [], 10)
    async with eraser(backup, ledger=ledger) as worker:
        await worker.restoring.restored(TENANT, "sound", "")
        assert await backup.erased(TENANT, "sound") == {"fact 3"}
        for _ in range(2):
            with pytest.raises(DataLoss):
                await worker.restoring.restored(TENANT, "sound", "bad")
        assert list(worker.restoring.unrestored) == [(TENANT, "bad")]
        backup.is_damaged = False
        await worker.restoring.restored(TENANT, "bad")
        assert not worker.restoring.unrestored
        assert await backup.erased(TENANT, "bad") == {"fact 3"}
        await finished_all(worker)


def test_a_ledger_keeps_each_line_once_and_survives_a_torn_one(tmp_path: Path, caplog) -> None:
    path = tmp_path / "ledger.jsonl"
    lines = [Erasure("t", "b", "log", hashed(f), "e", 1, 2) for f in "abc"]
    EraseLedger(path).add(lines[:2])
    EraseLedger(path).add(lines[:2])
    assert EraseLedger(path).entries() == lines[:2]
    with path.open("a") as file:
        file.write(json.dumps({"tenant": "t"})[:9])
    EraseLedger(path).add(lines)
    assert EraseLedger(path).entries() == lines
    assert "cannot be read" in caplog.text
    EraseLedger(None).add(lines)
    assert EraseLedger(None).entries() == [] == EraseLedger(tmp_path / "none").entries()


def test_needles_find_every_text_and_vector_of_a_payload(tmp_path: Path) -> None:
    payload = payload_of(CONFIG, "the fact", 2)
    needles = needles_of([payload.to_bytes()])
    assert b"rephrasing 0" in needles and payload.value.tobytes()[:64] in needles
    file = tmp_path / "store"
    for needle in needles:
        for place in (0, 2**20 - len(needle) // 2, 2**21 + 5):
            file.write_bytes(b"\xff" * place + needle + b"\xff" * 7)
            files, size, found = search_files([str(file), str(tmp_path / "gone")], needles)
            assert (files, size) == (2, place + len(needle) + 7) and found >= 1
    file.write_bytes(b"\xff" * 2**20)
    assert search_files([str(file)], needles)[2] == 0
    left = without_shared(needles, [payload_of(CONFIG, "other", 2).to_bytes()])
    assert len(left) == 1 and b"the fact" in left[0], "only what names the fact is its own"
