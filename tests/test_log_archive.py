"""The log's contract for archives: stored, load, publish; and the files of the store."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from larimar.errors import Conflict, DataLoss, InvalidArgument
from larimar.memory import Event, Kind, next_chain
from services.log import Log, Stored
from services.redis_log import RedisLog
from tests.logs import (
    CONFIG,
    OTHER_CONFIG,
    B,
    T,
    appended,
    erase,
    erased,
    forget,
    whole_archive,
    whole_tail,
    write,
)

pytest_plugins = ("tests.log_stores",)


async def fill(log: Log) -> list[Stored]:
    """A bank with a fork, whose archive is returned: everything that can be in one."""
    items = [write(f"e{n}", f"f{n % 4}", payload=bytes(n)) for n in range(1, 20)]
    await log.append(T, B, [*items, forget("e20", "f2")])
    await log.fork(T, B, "fork", 18)
    await log.append(T, "fork", [write("own", "f1"), write("again", "f3"), forget("g", "f0")])
    await erased(log, erase("x", "f1"))
    await log.remove_payloads(T, B, ["f1"])
    return await whole_archive(log, "fork", page=7)


@pytest.mark.asyncio
class TestArchives:
    """What a bank's archive holds makes the same bank again."""

    async def test_the_archive_of_a_fork_makes_a_bank_of_its_own(self, log: Log) -> None:
        archive = await fill(log)
        assert len(archive) == 22
        for stored in archive:
            kept = stored.event.kind == Kind.WRITE and stored.event.fact_id != "f1"
            assert (stored.salted is not None) == kept
        for start in range(0, 22, 5):
            await log.load(T, "new", archive[start : start + 5])
            assert "new" not in await log.banks(T)
        await log.publish(T, "new", CONFIG, ["f1"], 22)
        assert "new" in await log.banks(T)
        assert await log.bank_config(T, "new") == CONFIG
        assert await log.family(T, "new") == {"new": None}
        assert await whole_tail(log, bank="new") == await whole_tail(log, bank="fork")
        assert await log.head(T, "new") == await log.head(T, "fork")
        assert await whole_archive(log, "new") == archive
        assert await appended(
            log,
            write("e3", "f3", payload=b"any"),
            write("e2", "f2", "another answer"),
            write("own", "f1"),
            forget("n1", "f0"),
            write("n2", "f1"),
            write("n3", "f3"),
            bank="new",
        ) == [
            (3, True, None),
            (0, False, "CONFLICT"),
            (19, True, None),
            (0, False, "ALREADY_FORGOTTEN"),
            (0, False, "ERASED"),
            (23, False, None),
        ]
        (newest, *_) = await log.fact_events(T, "new", "f3")
        assert newest.previous == 20

    async def test_loading_goes_on_where_it_stopped(self, log: Log) -> None:
        archive = await fill(log)
        for end in (0, 1, 9, 9, 4, 22, 22):
            await log.load(T, "new", archive[:end])
        await log.publish(T, "new", CONFIG, ["f1"], 22)
        assert await whole_archive(log, "new", page=5) == archive

    async def test_a_load_says_how_far_it_is_and_another_source_begins_anew(self, log: Log) -> None:
        archive = await fill(log)
        chain = archive[8].event.chain
        assert await log.load(T, "new", [], "one") == (0, "")
        assert await log.load(T, "new", archive[:9], "one") == (9, chain)
        assert await log.load(T, "new", [], "one") == (9, chain)
        with pytest.raises(Conflict):
            await log.load(T, B, [], "one")
        assert await log.load(T, "new", [], "two") == (0, "")
        await log.load(T, "new", archive, "two")
        await log.publish(T, "new", CONFIG, ["f1"], 22, "two")
        assert await whole_archive(log, "new") == archive

    async def test_another_archive_replaces_what_was_loaded_half_way(self, log: Log) -> None:
        archive = await fill(log)
        await log.make_bank(T, "other", CONFIG)
        await log.append(T, "other", [write(f"o{n}", "f") for n in range(5)])
        other = await whole_archive(log, "other")
        await log.load(T, "new", other)
        await log.load(T, "new", archive)
        await log.publish(T, "new", CONFIG, ["f1"], 22)
        assert await whole_archive(log, "new") == archive
        await log.load(T, "third", archive[:9])
        await log.load(T, "third", other)
        await log.publish(T, "third", CONFIG, [], 5)
        assert await whole_archive(log, "third") == other
        assert await appended(log, forget("x", "f0"), bank="third") == [(0, False, "UNKNOWN_FACT")]

    async def test_an_entry_that_does_not_follow_is_refused(self, log: Log) -> None:
        archive = await fill(log)

        def changed(place: int, **fields) -> list[Stored]:
            event = dataclasses.replace(archive[place].event, **fields)
            return [*archive[:place], dataclasses.replace(archive[place], event=event)]

        for bad in (
            changed(7, fact_id="f9"),
            changed(7, previous=0),
            changed(7, time_ms=1),
            changed(7, chain="0" * 40),
            changed(7, version=9),
            [*archive[:7], archive[8]],
            archive[1:],
        ):
            with pytest.raises(DataLoss, match=r"version \d+: .*(does not follow|event before)"):
                await log.load(T, "new", bad)
            await log.drop_bank(T, "new")
        for salted in (b"too short", archive[6].salted):
            bad = [*archive[:7], dataclasses.replace(archive[7], salted=salted)]
            with pytest.raises(DataLoss, match="version 8: the payload's bytes have changed"):
                await log.load(T, "new", bad)
        await log.load(T, "new", archive[:10])
        with pytest.raises(DataLoss, match="version 10: what is loaded must end at 22"):
            await log.publish(T, "new", CONFIG, [], 22)
        assert "new" not in await log.banks(T)

    async def test_an_id_that_no_append_takes_is_not_loaded(self, log: Log) -> None:
        fields = (1, Kind.WRITE, "f", "e", 1, "0" * 64)

        def first(request_hmac: str = "", **changes) -> Stored:
            event = dataclasses.replace(Event(*fields, "", 0), **changes)
            values = (event.version, event.kind, event.fact_id, event.event_id, event.time_ms)
            chain = next_chain("", *values, event.payload_sha256, 0)
            return Stored(dataclasses.replace(event, chain=chain), None, request_hmac)

        for bad in (
            first(event_id="e" * 257),
            first(event_id=""),
            first(event_id="e\0"),
            first(fact_id="f" * 257),
            first(kind=Kind.ERASE, event_id="e" * 513),
            first(kind=Kind.ERASE, event_id="e\0"),
        ):
            with pytest.raises(InvalidArgument, match="bytes of UTF-8 without NUL"):
                await log.load(T, "new", [bad])
        for bad in (first(payload_sha256="0" * 65), first(request_hmac="0" * 65)):
            with pytest.raises(DataLoss, match="version 1: a digest is not"):
                await log.load(T, "new", [bad])
        assert await log.load(T, "new", []) == (0, "")

    async def test_the_longest_ids_of_erasures_in_forks_come_back(self, log: Log) -> None:
        event_id, fork = "e" * 256, "f" * 63
        await log.append(T, B, [write(f"w{n}", f"f{n}") for n in range(3)])
        await log.fork(T, B, fork, 3)
        await log.fork(T, B, "other", 2)
        await log.append(T, fork, [write(event_id, "own")])
        assert await erased(log, erase(event_id, "f0")) == [(4, False, None)]
        await log.drop_bank(T, "other")
        await log.fork(T, B, "other", 3)
        assert await erased(log, erase(event_id, "f1"), bank="other") == [(4, False, None)]
        archive = await whole_archive(log, fork)
        ids = [one.event.event_id for one in archive if one.event.kind == Kind.ERASE]
        assert ids[0] == f"{event_id}@{fork}"
        assert len(set(ids)) == 2 and max(map(len, ids)) == 320
        await log.load(T, "new", archive)
        await log.publish(T, "new", CONFIG, ["f0", "f1"], 6)
        assert await whole_archive(log, "new") == archive

    async def test_a_bank_that_is_there_is_not_loaded_over(self, log: Log) -> None:
        archive = await fill(log)
        for bank in (B, "fork"):
            before = await whole_tail(log, bank=bank)
            for call in (
                log.load(T, bank, archive),
                log.load(T, bank, []),
                log.publish(T, bank, CONFIG, [], 0),
            ):
                with pytest.raises(Conflict, match="exists") as caught:
                    await call
                assert caught.value.reason == "BANK_EXISTS"
            assert await whole_tail(log, bank=bank) == before

    async def test_what_was_loaded_and_never_shown_is_swept(self, log: Log) -> None:
        archive = await fill(log)
        await log.make_bank(T, "other", CONFIG)
        await log.append(T, "other", [write("o", "f")])
        other = await whole_archive(log, "other")
        before = {bank: await whole_tail(log, bank=bank) for bank in (B, "fork", "other")}
        chain = archive[0].event.chain
        await log.load(T, "new", archive[:9], "a")
        await log.load(T, B, archive[:9], "b", replaces=True)
        await log.load(T, "third", other, "c")
        await log.load(T, "fourth", [], "d")
        assert await log.sweep_loads(T, ["0" * 40], older_s=3600) == []
        assert await log.sweep_loads("else", [chain], older_s=-1) == []
        assert await log.sweep_loads(T, [chain]) == [chain, chain]
        assert await log.load(T, "new", [], "a") == (0, "")
        assert await log.load(T, B, [], "b", replaces=True) == (0, "")
        assert await log.load(T, "third", [], "c") == (1, other[0].event.chain)
        assert sorted(await log.sweep_loads(T, older_s=-1)) == ["", "", "", other[0].event.chain]
        assert await log.sweep_loads(T, older_s=-1) == []
        for bank, entries in before.items():
            assert await whole_tail(log, bank=bank) == entries
        await log.load(T, "new", archive, "a")
        await log.publish(T, "new", CONFIG, ["f1"], 22, "a")
        assert await log.sweep_loads(T, [chain], older_s=-1) == []
        assert await whole_archive(log, "new") == archive

    async def test_what_is_loaded_gives_way_to_other_banks_of_its_name(self, log: Log) -> None:
        archive = await fill(log)
        await log.load(T, "new", archive)
        assert await log.make_bank(T, "new", OTHER_CONFIG) == (OTHER_CONFIG, True)
        assert await log.head(T, "new") == (0, "", 0)
        assert await log.drop_bank(T, "new") is True
        await log.load(T, "new", archive)
        assert await log.fork(T, B, "new", 2) is True
        assert await whole_tail(log, bank="new") == (await whole_tail(log))[:2]
        await log.load(T, "third", archive)
        assert await log.drop_bank(T, "third") is False
        await log.publish(T, "third", CONFIG, ["f"], 0)
        assert await log.head(T, "third") == (0, "", 1)
        with pytest.raises(InvalidArgument):
            await log.publish(T, "fourth", CONFIG, [""], 0)


def holds(paths: list[str], needle: bytes) -> bool:
    return any(needle in Path(path).read_bytes() for path in paths)


@pytest.mark.asyncio
class TestFiles:
    """An erased fact is in no file of the store, once they are rewritten."""

    async def test_a_scan_finds_the_fact_before_and_not_after(self, redis_bank: RedisLog) -> None:
        secret, kept = b"a text that must go, \x00\xff and its vectors", b"a text that stays"
        await redis_bank.append(T, B, [write("e1", "f", payload=secret)])
        await redis_bank.fork(T, B, "fork", 1)
        await redis_bank.append(T, "fork", [write("e2", "f", payload=2 * secret)])
        await redis_bank.append(T, B, [write("e3", "g", payload=kept)])
        await redis_bank.put_checkpoint(T, "fork", "memory", 2, b"state with " + secret, {}, 0)
        for files in (redis_bank.files, redis_bank.rewrite_files):
            paths = await files()
            assert paths and holds(paths, secret) and holds(paths, kept)
        found = await redis_bank.search(T, B, [secret, b"no such text"])
        assert found.found == 3
        archive = await whole_archive(redis_bank)
        await redis_bank.load(T, "cut-off", archive)
        await redis_bank.erase(T, "fork", [erase("x", "f")])
        assert await redis_bank.sweep_loads(T, [archive[0].event.chain]) == [archive[0].event.chain]
        assert await redis_bank.remove_payloads(T, B, ["f"]) == 2
        assert await redis_bank.remove_checkpoints(T, "fork", 3) == 1
        assert (await redis_bank.search(T, B, [secret])).found == 0
        assert (await redis_bank.search(T, B, [kept])).found == 1
        paths = await redis_bank.files()
        assert paths and holds(paths, secret), "the old file still has it, or the scan is blind"
        paths = await redis_bank.rewrite_files()
        assert paths and holds(paths, kept)
        assert not holds(paths, secret)
        assert paths == await redis_bank.files()
        assert any("appendonlydir" in path for path in paths)

    async def test_a_store_elsewhere_has_no_files_here(self) -> None:
        log = RedisLog("redis://127.0.0.1:1/0")
        assert await log.files() is None
        await log.close()
