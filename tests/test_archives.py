"""Archives over the memory service's calls: out of one log, into another, entry for entry."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import redis

from larimar.errors import Conflict, DataLoss, FailedPrecondition, InvalidArgument, Unavailable
from larimar.memory import BankState
from larimar.v1 import common_pb2, memory_pb2
from services.log import MemoryLog
from services.memory import archives
from services.memory.ledger import EraseLedger, Erasure, hashed
from services.memory.service import MemoryService
from services.redis_bank_scripts import REPLACE
from services.redis_log import RedisLog
from services.store import EmbeddedStore
from tests.banks import ADDRESSINGS, config_of
from tests.following import (
    CONFIG,
    TENANT,
    both,
    erase_of,
    filled,
    forget_of,
    noting_threads,
    state_of,
    write_of,
)
from tests.logs import PATIENCE_S, cut_off

pytest_plugins = ("tests.log_stores",)


def service_over(log: Any, ledger: EraseLedger | None = None) -> Any:
    return MemoryService(log, both(log), ledger=ledger)


async def dumped(log: Any, bank: str = "b") -> tuple[common_pb2.ArchiveHeader, list[Any]]:
    request = memory_pb2.DumpBankRequest(bank=bank)
    first, *rest = [message async for message in service_over(log).DumpBank(request, None)]
    return first.header, [record for message in rest for record in message.records]


async def loaded(service: Any, header: Any, records: list[Any], bank: str = "b", size: int = 3):
    for low in range(0, len(records), size):
        part = records[low : low + size]
        call = memory_pb2.LoadBankRequest(header=header, records=part, bank=bank)
        assert not (await service.LoadBank(call, None)).digest
        assert bank not in await service._log.banks(TENANT), "nobody sees it before the last call"
    last = memory_pb2.LoadBankRequest(header=header, bank=bank, last=True)
    return await service.LoadBank(last, None)


async def dumped_and_erased(log: MemoryLog, service: Any) -> tuple[Any, list[Any]]:
    """An archive that holds a fact which is erased since, to the end."""
    await filled(log)
    archive = await dumped(log)
    await service._eraser.erase(TENANT, "b", ["fact 3"], "x")
    await asyncio.gather(*service._eraser._running.values())
    return archive


@pytest.mark.parametrize("addressing", ADDRESSINGS)
@pytest.mark.parametrize("size", [1, 4, 100])
async def test_an_archive_gives_the_same_bank_under_any_name(addressing, size, monkeypatch) -> None:
    monkeypatch.setattr(archives, "DUMP_ENTRIES", size)
    log, other = MemoryLog(), MemoryLog()
    await filled(log, config=config_of(addressing))
    await log.erase(TENANT, "b", [erase_of("fact 3")])
    await log.remove_payloads(TENANT, "b", ["fact 3"])
    header, records = await dumped(log)
    assert (header.version, header.erase_count, list(header.erased_fact_ids)) == (11, 1, ["fact 3"])
    assert [record.event.version for record in records] == list(range(1, 12))
    lost = [record for record in records if record.event.erased]
    assert {record.event.fact_id for record in lost} == {"fact 3"}
    assert not any(record.payload or record.salt for record in lost)
    reply = await loaded(service_over(other), header, records, "copy", size)
    assert reply.digest == header.digest and reply.erased_again == 0
    assert await state_of(both(other), "copy") == await state_of(both(log))
    assert await other.head(TENANT, "copy") == await log.head(TENANT, "b")
    assert await dumped(other, "copy") == (
        _named(header, "copy"), records
    ), "an archive of the archive"  # fmt: skip
    for write in (write_of(config_of(addressing), "fact 5", 5), forget_of("fact 0")):
        (done,) = await other.append(TENANT, "copy", [write])
        assert done.duplicate, "event ids are known on the other side"
    (done,) = await other.append(TENANT, "copy", [write_of(config_of(addressing), "fact 3", 9)])
    assert done.error is not None and done.error.reason == "ERASED"


def _named(header: Any, bank: str) -> Any:
    made = common_pb2.ArchiveHeader.FromString(header.SerializeToString())
    made.config.bank = bank
    return made


async def test_a_fork_is_archived_whole_and_comes_back_without_its_origin() -> None:
    log, other = MemoryLog(), MemoryLog()
    await filled(log)
    await log.fork(TENANT, "b", "fork", 6)
    await log.append(TENANT, "fork", [write_of(CONFIG, "own", 1)])
    await loaded(service_over(other), *await dumped(log, "fork"), "fork")
    assert await state_of(both(other), "fork") == await state_of(both(log), "fork")
    assert await other.family(TENANT, "fork") == {"fork": None}


async def test_digests_of_archives_are_computed_beside_the_event_loop(monkeypatch) -> None:
    noted, calls = noting_threads(BankState.digest)
    monkeypatch.setattr(BankState, "digest", noted)
    log, other = MemoryLog(), MemoryLog()
    await filled(log)
    await loaded(service_over(other), *await dumped(log))
    assert len(calls) == 2 and all(calls)


async def test_an_empty_bank_can_be_archived() -> None:
    log, other = MemoryLog(), MemoryLog()
    await log.make_bank(TENANT, "b", CONFIG)
    header, records = await dumped(log)
    assert (header.version, header.chain, records) == (0, "", [])
    reply = await loaded(service_over(other), header, records)
    assert reply.digest == header.digest and reply.info.version == 0


async def test_every_call_of_a_load_may_be_repeated() -> None:
    log, other = MemoryLog(), MemoryLog()
    await filled(log)
    header, records = await dumped(log)
    service = service_over(other)
    for part in (records[:4], records[:4], records[2:8], records):
        call = memory_pb2.LoadBankRequest(header=header, records=part, bank="b")
        await service.LoadBank(call, None)
    first = await loaded(service, header, [])
    again = await service.LoadBank(
        memory_pb2.LoadBankRequest(header=header, bank="b", last=True), None
    )
    assert again.digest == first.digest == header.digest
    assert (await other.head(TENANT, "b"))[0] == 10


async def test_a_name_that_another_bank_has_is_refused() -> None:
    log, other = MemoryLog(), MemoryLog()
    await filled(log)
    header, records = await dumped(log)
    await filled(other)
    service = service_over(other)
    before = await state_of(both(other))
    for last in (False, True):
        with pytest.raises(Conflict) as caught:
            await service.LoadBank(
                memory_pb2.LoadBankRequest(header=header, records=records, bank="b", last=last),
                None,
            )
        assert caught.value.reason == "BANK_EXISTS"
    assert await state_of(both(other)) == before


def _flip(raw: bytes) -> bytes:
    return raw[:-1] + bytes([raw[-1] ^ 1])


TAMPERING = {
    "a payload": lambda record: setattr(record, "payload", _flip(record.payload)),
    "a salt": lambda record: setattr(record, "salt", _flip(record.salt)),
    "a fact id": lambda record: setattr(record.event, "fact_id", "another"),
    "a chain": lambda record: setattr(record.event, "chain", "0" * 40),
    "a version": lambda record: setattr(record.event, "version", 7),
    "a kind": lambda record: setattr(record.event, "kind", 0),
    "a time": lambda record: setattr(record.event, "time_ms", 1),
    "an earlier version": lambda record: setattr(record.event, "previous_version", 1),
}


@pytest.mark.parametrize("what", TAMPERING)
async def test_a_record_that_was_tampered_with_is_refused(what) -> None:
    log, other = MemoryLog(), MemoryLog()
    await filled(log)
    header, records = await dumped(log)
    TAMPERING[what](records[4])
    with pytest.raises(DataLoss):
        await loaded(service_over(other), header, records)
    assert await other.banks(TENANT) == []


def _fewer(header: Any, records: list[Any]) -> None:
    del records[-1]


def _without_a_payload(header: Any, records: list[Any]) -> None:
    records[4].ClearField("payload")
    records[4].ClearField("salt")


def _other_erased(header: Any, records: list[Any]) -> None:
    header.erased_fact_ids.append("fact 5")


def _other_digest(header: Any, records: list[Any]) -> None:
    header.digest = "0" * 64


def _more_erased(header: Any, records: list[Any]) -> None:
    _other_erased(header, records)
    header.erase_count += 1


@pytest.mark.parametrize(
    "damage", [_fewer, _without_a_payload, _other_erased, _more_erased, _other_digest]
)
async def test_what_is_not_what_was_dumped_is_not_made_visible(damage) -> None:
    log, other = MemoryLog(), MemoryLog()
    await filled(log)
    header, records = await dumped(log)
    damage(header, records)
    with pytest.raises(DataLoss):
        await loaded(service_over(other), header, records)
    assert await other.banks(TENANT) == []


class EditedAtOnce(MemoryLog):
    """A log in which somebody edits a bank in the moment in which it becomes visible."""

    async def publish(self, tenant, bank, *about, **more):
        await super().publish(tenant, bank, *about, **more)
        await self.append(tenant, bank, [write_of(CONFIG, "at once", 1)])
        await self.erase(tenant, bank, [erase_of("fact 5")])


@pytest.mark.parametrize("empty", [False, True])
async def test_an_edit_in_the_moment_an_import_becomes_visible_stays(empty: bool) -> None:
    log, other = MemoryLog(), EditedAtOnce()
    if empty:
        await log.make_bank(TENANT, "b", CONFIG)
    else:
        await filled(log)
    header, records = await dumped(log)
    reply = await loaded(service_over(other), header, records)
    assert reply.digest == header.digest
    async with both(other).state(TENANT, "b") as state:
        assert "at once" in state.facts
        assert state.version == header.version + (1 if empty else 2)


async def test_a_wrong_archive_that_was_edited_already_is_refused_and_stays() -> None:
    log, other = MemoryLog(), EditedAtOnce()
    await filled(log)
    header, records = await dumped(log)
    _without_a_payload(header, records)
    with pytest.raises(DataLoss, match="stays"):
        await loaded(service_over(other), header, records)
    assert (await other.head(TENANT, "b"))[0] == 12


async def test_an_erasure_on_the_way_ends_a_dump(monkeypatch) -> None:
    monkeypatch.setattr(archives, "DUMP_ENTRIES", 3)
    log = MemoryLog()
    await filled(log)
    messages = service_over(log).DumpBank(memory_pb2.DumpBankRequest(bank="b"), None)
    await anext(messages)
    await anext(messages)
    await log.erase(TENANT, "b", [erase_of("fact 3")])
    with pytest.raises(FailedPrecondition) as caught:
        _ = [message async for message in messages]
    assert caught.value.reason == "ERASED_MEANWHILE"


async def test_edits_on_the_way_are_left_for_the_next_dump(monkeypatch) -> None:
    monkeypatch.setattr(archives, "DUMP_ENTRIES", 3)
    log, other = MemoryLog(), MemoryLog()
    await filled(log)
    wanted = await state_of(both(log))
    messages = service_over(log).DumpBank(memory_pb2.DumpBankRequest(bank="b"), None)
    header = (await anext(messages)).header
    await log.append(TENANT, "b", [write_of(CONFIG, "late", 1)])
    records = [record async for message in messages for record in message.records]
    await loaded(service_over(other), header, records)
    assert await state_of(both(other)) == wanted


async def test_big_payloads_are_spread_over_messages(monkeypatch) -> None:
    monkeypatch.setattr(archives, "DUMP_BYTES", 700)
    log = MemoryLog()
    await filled(log)
    request = memory_pb2.DumpBankRequest(bank="b")
    _, *rest = [message async for message in service_over(log).DumpBank(request, None)]
    assert len(rest) > 2 and sum(len(message.records) for message in rest) == 10
    assert all(message.ByteSize() < 2000 for message in rest)


async def test_an_archive_from_before_an_erasure_is_erased_again(tmp_path: Path) -> None:
    log, other = MemoryLog(), MemoryLog()
    await filled(log)
    header, records = await dumped(log)
    first = (await log.events(TENANT, "b", 0, 1))[0].chain
    ledger = EraseLedger(tmp_path / "ledger.jsonl")
    ledger.add([Erasure(TENANT, "b", first, hashed("fact 3"), "x", 11, 0)])
    service = service_over(other, ledger)
    reply = await loaded(service, header, records, "copy")
    assert reply.erased_again == 1 and reply.digest == header.digest
    assert "fact 3" not in (await state_of(both(other), "copy"))[2]
    await service._eraser.close()


async def test_nobody_reads_what_an_import_brings_back_though_its_caller_goes_away(
    tmp_path: Path, monkeypatch
) -> None:
    log = MemoryLog()
    service = service_over(log, EraseLedger(tmp_path / "ledger.jsonl"))
    header, records = await dumped_and_erased(log, service)
    shown, gate = asyncio.Event(), asyncio.Event()
    erase_again = service._eraser.restoring.erase_again

    async def held_up(tenant: str, bank: str) -> int:
        if bank == "copy":
            shown.set()
            await gate.wait()
        return await erase_again(tenant, bank)

    monkeypatch.setattr(service._eraser.restoring, "erase_again", held_up)
    load = memory_pb2.LoadBankRequest(bank="copy", records=records, header=header, last=True)
    importing = asyncio.create_task(service.LoadBank(load, None))
    await shown.wait()
    assert "copy" in await log.banks(TENANT)
    call = memory_pb2.EnumerateFactsRequest(bank="copy")
    reading = asyncio.create_task(service.EnumerateFacts(call, None))
    importing.cancel()
    await asyncio.wait([importing, reading], timeout=0.2)
    assert importing.cancelled() and not reading.done(), "it waits until the fact is erased again"
    gate.set()
    assert "fact 3" not in [fact.fact_id for fact in (await reading).facts]
    assert "fact 3" in await log.erased(TENANT, "copy")
    again = await service.LoadBank(load, None)
    assert again.digest and not again.erased_again
    await service._eraser.close()


async def test_an_import_that_an_erasure_swept_away_is_told_to_begin_again() -> None:
    log = MemoryLog()
    service = service_over(log)
    await filled(log)
    header, records = await dumped(log)
    calls = [
        memory_pb2.LoadBankRequest(bank="copy", records=part, header=header, last=last)
        for part, last in ((records[:4], False), (records[4:], True), ([], True), (records, True))
    ]
    await service.LoadBank(calls[0], None)
    await service._eraser.erase(TENANT, "b", ["fact 3"], "x")
    await asyncio.gather(*service._eraser._running.values())
    for call in calls[1:3]:
        with pytest.raises(FailedPrecondition, match="from the start") as caught:
            await service.LoadBank(call, None)
        assert caught.value.reason == "ERASED_MEANWHILE"
    assert (await service.LoadBank(calls[3], None)).digest == header.digest
    await service._eraser.close()


async def test_a_bank_is_looked_at_again_where_an_import_could_not_erase_from_it(
    tmp_path: Path, monkeypatch
) -> None:
    log = MemoryLog()
    service = service_over(log, EraseLedger(tmp_path / "ledger.jsonl"))
    header, records = await dumped_and_erased(log, service)
    erase = log.erase

    async def down(*about) -> None:
        raise Unavailable("the store is down", "STORE_DOWN")

    monkeypatch.setattr(log, "erase", down)
    load = memory_pb2.LoadBankRequest(bank="copy", records=records, header=header, last=True)
    with pytest.raises(Unavailable):
        await service.LoadBank(load, None)
    call = memory_pb2.EnumerateFactsRequest(bank="copy")
    with pytest.raises(Unavailable):
        await service.EnumerateFacts(call, None)
    monkeypatch.setattr(log, "erase", erase)
    facts = (await service.EnumerateFacts(call, None)).facts
    assert facts and "fact 3" not in [fact.fact_id for fact in facts]
    await service._eraser.close()


async def test_an_archive_from_before_a_re_encoding_is_erased_again(tmp_path: Path) -> None:
    """The log was re-encoded twice, so that its chain is another one; the old banks are gone."""
    log = MemoryLog()
    ledger = EraseLedger(tmp_path / "ledger.jsonl")
    service = service_over(log, ledger)
    await filled(log)
    header, records = await dumped(log)
    for name, source in (("new", "b"), ("newest", "new")):
        elsewhere = MemoryLog()
        await filled(elsewhere)  # under another salt
        made_header, made = await dumped(elsewhere)
        call = memory_pb2.LoadBankRequest(
            header=made_header, records=made, bank=name, last=True, reencoded_from=source
        )
        await service.LoadBank(call, None)
        await service.LoadBank(call, None)
        await log.drop_bank(TENANT, source)
    await service._eraser.erase(TENANT, "newest", ["fact 3"], "x")
    chains = {entry.log for entry in ledger.entries() if entry.fact_id_sha256}
    assert len(chains) == 3 and len(ledger.entries()) == 5
    await asyncio.gather(*service._eraser._running.values())  # it sweeps what is loaded meanwhile
    reply = await loaded(service, header, records, "again")
    assert reply.erased_again == 1
    assert "fact 3" not in (await state_of(both(log), "again"))[2]
    await service._eraser.close()


async def test_the_archive_of_a_fork_of_an_empty_bank_is_erased_again(tmp_path: Path) -> None:
    """Its first entry, by which the ledger knows a log, is not that of its family's root."""
    log = MemoryLog()
    await log.make_bank(TENANT, "b", CONFIG)
    await log.fork(TENANT, "b", "fork", 0)
    for bank in ("b", "fork"):
        await log.append(TENANT, bank, [write_of(CONFIG, "fact 3", 3), write_of(CONFIG, "f", 4)])
    await log.fork(TENANT, "b", "empty", 0)
    header, records = await dumped(log, "fork")
    service = service_over(log, EraseLedger(tmp_path / "ledger.jsonl"))
    await service._eraser.erase(TENANT, "b", ["fact 3"], "x")
    await asyncio.gather(*service._eraser._running.values())  # it sweeps what is loaded meanwhile
    reply = await loaded(service, header, records, "again")
    assert reply.erased_again == 1
    await service._eraser.close()


async def test_a_switch_that_is_repeated_removes_what_is_left_of_the_old_bank(
    store: EmbeddedStore, raw: redis.Redis
) -> None:
    logs = [RedisLog(store.url, timeout_s=PATIENCE_S) for _ in range(2)]
    for log, bank in ((logs[0], "b"), (logs[0], "twin")):
        await filled(log, bank)
    header, records = await dumped(logs[0], "twin")
    call = memory_pb2.LoadBankRequest(
        header=header, records=records, bank="b", last=True, replaces_version=10
    )
    cut_off(logs[0], REPLACE, 1)
    with pytest.raises(Unavailable):
        await service_over(logs[0]).LoadBank(call, None)
    assert raw.keys("{default:b}:b:payload:*")
    reply = await service_over(logs[1]).LoadBank(call, None)
    assert reply.digest == header.digest and not raw.keys("{default:b}:*")
    assert (await dumped(logs[1]))[1] == records
    for log in logs:
        await log.close()


async def test_a_load_needs_its_header_at_the_end() -> None:
    call = memory_pb2.LoadBankRequest(bank="b", last=True)
    with pytest.raises(InvalidArgument):
        await service_over(MemoryLog()).LoadBank(call, None)
