"""What damage, and what nobody may see happen, looks like in a log in Redis."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from pathlib import Path

import pytest
import redis

from larimar.errors import Conflict, DataLoss, LarimarError, ResourceExhausted
from services import (
    redis_appends,
    redis_bank_scripts,
    redis_banks,
    redis_checkpoints,
    redis_scripts,
    redis_upkeep,
    redis_upkeep_scripts,
)
from services.redis_log import RedisLog
from services.redis_store import Keys
from services.store import EmbeddedStore
from tests.logs import CONFIG, B, T, appended, erase, forget, whole_tail, write

pytest_plugins = ("tests.log_stores",)


def flip(raw: redis.Redis, key: str, position: int) -> None:
    """Flips one bit of a value, as a failing disk would."""
    value = bytearray(raw.get(key))
    value[position] ^= 1
    raw.set(key, bytes(value))


BANK_KEYS = f"{{{T}:{B}}}:{B}:"


@pytest.mark.asyncio
class TestRedisLog:
    """What damage, and what nobody may see happen, looks like in the store."""

    async def test_keys_share_the_hash_tag_and_read_as_documented(
        self, redis_bank: RedisLog, raw: redis.Redis
    ) -> None:
        await redis_bank.append(
            T, B, [write("e1", "f"), write("e2", "g"), forget("e3", "g"), write("e4", "f")]
        )
        assert {key.decode() for key in raw.keys("*")} == {
            f"{{{T}}}:banks",
            *(BANK_KEYS + name for name in ("config", "log", "facts", "events")),
            *(f"{BANK_KEYS}payload:{version}" for version in (1, 2, 4)),
        }
        assert raw.hgetall(BANK_KEYS + "facts") == {b"f": b"4", b"g": b"-3"}
        salted = raw.get(BANK_KEYS + "payload:4")
        assert salted[16:] == b"payload of e4: a"
        assert [entry[0] for entry in raw.xrange(BANK_KEYS + "log")] == [
            b"1-0", b"2-0", b"3-0", b"4-0"
        ]  # fmt: skip
        assert b"payload" not in raw.dump(BANK_KEYS + "log")

    async def test_a_flipped_bit_in_any_payload_is_data_loss(
        self, redis_bank: RedisLog, raw: redis.Redis
    ) -> None:
        await redis_bank.append(T, B, [write(f"e{n}", f"f{n}") for n in range(1, 31)])
        for version, position in ((1, 0), (2, 15), (16, 16), (17, -1), (30, 20)):
            key = f"{BANK_KEYS}payload:{version}"
            flip(raw, key, position)
            message = f"'{B}', version {version}: the payload's bytes have changed"
            with pytest.raises(DataLoss, match=message):
                await whole_tail(redis_bank)
            with pytest.raises(DataLoss, match=message):
                await redis_bank.payloads(T, B, [3, version])
            assert len((await redis_bank.tail(T, B, version, 100)).entries) == 30 - version
            flip(raw, key, position)
        assert len(await whole_tail(redis_bank)) == 30

    @pytest.mark.parametrize("version", [1, 16, 17, 30])
    async def test_a_missing_payload_is_data_loss(
        self, redis_bank: RedisLog, raw: redis.Redis, version: int
    ) -> None:
        await redis_bank.append(T, B, [write(f"e{n}", f"f{n}") for n in range(1, 31)])
        raw.delete(f"{BANK_KEYS}payload:{version}")
        message = f"'{B}', version {version}: the payload is missing"
        with pytest.raises(DataLoss, match=message):
            await whole_tail(redis_bank)
        with pytest.raises(DataLoss, match=message):
            await redis_bank.payloads(T, B, [version])

    async def test_a_changed_or_lost_entry_is_data_loss(
        self, redis_bank: RedisLog, raw: redis.Redis
    ) -> None:
        await redis_bank.append(T, B, [write(f"e{n}", f"f{n}") for n in range(1, 6)])
        key, entries = BANK_KEYS + "log", raw.xrange(BANK_KEYS + "log")

        def rewrite(change: dict[bytes, bytes]) -> None:
            raw.delete(key)
            for entry_id, fields in entries:
                raw.xadd(key, fields | (change if entry_id == b"3-0" else {}), id=entry_id)

        for change in (
            {b"fact": b"f4"},
            {b"time_ms": b"1"},
            {b"chain": b"0" * 40},
            {b"prev": b"1"},
        ):
            rewrite(change)
            for read in (redis_bank.tail(T, B, 1, 9), redis_bank.events(T, B, 0, 9)):
                with pytest.raises(DataLoss, match="version 3: the entry does not follow"):
                    await read
        for change in ({b"kind": b"Z"}, {b"fact": b"a\0b"}, {b"time_ms": b"soon"}):
            rewrite(change)
            with pytest.raises(DataLoss, match=r"malformed|follows?"):
                await redis_bank.tail(T, B, 0, 9)
        rewrite({})
        assert len(await whole_tail(redis_bank)) == 5
        raw.xdel(key, b"3-0")
        for after, missing in ((0, 3), (2, 3), (3, 3)):
            with pytest.raises(DataLoss, match=f"version {missing}: the entry is missing"):
                await redis_bank.tail(T, B, after, 9)

    async def test_scripts_come_back_after_a_flush(
        self, redis_bank: RedisLog, raw: redis.Redis
    ) -> None:
        for n in range(1, 4):
            raw.script_flush()
            assert await appended(redis_bank, write(f"e{n}", "f")) == [(n, False, None)]
            raw.script_flush()
            assert len((await redis_bank.tail(T, B, 0, 10)).entries) == n
        assert raw.script_exists(redis_scripts.APPEND.sha1) == [False]
        await appended(redis_bank, write("e9", "f"))
        assert raw.script_exists(redis_scripts.APPEND.sha1) == [True]

    async def test_a_page_and_its_payloads_are_of_one_moment(
        self, redis_bank: RedisLog, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await redis_bank.append(T, B, [write(f"e{n}", f"f{n}") for n in range(1, 41)])
        run, facts = redis_bank._run, ["f20"]

        async def erasing(script, keys, *arguments):
            answer = await run(script, keys, *arguments)
            if script is redis_scripts.PAGE and facts:
                fact_id = facts.pop()
                await redis_bank.erase(T, B, [erase(f"x-{fact_id}", fact_id)])
                await redis_bank.remove_payloads(T, B, [fact_id])
            return answer

        monkeypatch.setattr(redis_bank, "_run", erasing)
        before = await redis_bank.tail(T, B, 0, 40)
        assert facts == [] and before.erase_count == 0
        assert all(payload is not None for _, payload in before.entries)
        after = await redis_bank.tail(T, B, 0, 40)
        assert after.erase_count == 1
        assert {e.fact_id for e, payload in after.entries if payload is None} == {"f20"}
        raw.delete(f"{BANK_KEYS}payload:25")
        with pytest.raises(DataLoss, match="version 25: the payload is missing"):
            await redis_bank.tail(T, B, 0, 40)

    async def test_appends_at_once_share_calls_within_their_limits(
        self, redis_bank: RedisLog, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sizes: list[int] = []
        run = redis_bank._run

        async def counting(script, keys, *arguments):
            if script is redis_scripts.APPEND:
                sizes.append((len(arguments) - 1) // redis_scripts.ITEM_ARGUMENTS)
            return await run(script, keys, *arguments)

        monkeypatch.setattr(redis_bank, "_run", counting)

        async def publish(name: str, count: int, size: int) -> None:
            items = [write(f"{name}-{i}", "f", payload=bytes(size)) for i in range(count)]
            results = await redis_bank.append(T, B, items)
            versions = [result.version for result in results]
            assert versions == [*range(versions[0], versions[0] + count)]

        await asyncio.gather(*(publish(f"a{n}", 1, 1) for n in range(20)))
        assert sizes == [20]
        sizes.clear()
        await asyncio.gather(*(publish(f"b{n}", 400, 1) for n in range(5)))
        assert sizes == [800, 800, 400]
        sizes.clear()
        monkeypatch.setattr(redis_appends, "MAX_BATCH_BYTES", 1000)
        await asyncio.gather(*(publish(f"c{n}", 1, 400) for n in range(5)))
        assert sizes == [2, 2, 1]
        await asyncio.gather(redis_bank.append(T, B, []), publish("d", 3, 2000))

    async def test_a_failed_call_fails_all_whom_it_carried(
        self, redis_bank: RedisLog, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        raw.config_set("maxmemory", "1")
        try:
            errors = await asyncio.gather(
                *(redis_bank.append(T, B, [write(f"e{n}", "f")]) for n in range(5)),
                return_exceptions=True,
            )
        finally:
            raw.config_set("maxmemory", "0")
        assert [type(error) for error in errors] == [ResourceExhausted] * 5
        assert len({id(error) for error in errors}) == 5
        assert await redis_bank.head(T, B) == (0, "", 0)
        first = asyncio.create_task(redis_bank.append(T, B, [write("e0", "f")]))
        second = asyncio.create_task(redis_bank.append(T, B, [write("e1", "f")]))
        await asyncio.sleep(0)
        first.cancel()
        assert (await second)[0].error is None
        assert (await redis_bank.head(T, B))[0] == 2, "a caller that left does not stop others"

    async def test_nobody_waits_twice_for_a_store_that_is_gone(self) -> None:
        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/socket"
            server = await asyncio.start_unix_server(silent, path)
            log = RedisLog(f"unix://{path}", timeout_s=0.3)
            calls = [log.append(T, B, [write(f"e{n}", "f")] * 300) for n in range(60)]
            started = time.monotonic()
            errors = await asyncio.gather(*calls, return_exceptions=True)
            waited_s = time.monotonic() - started
            await log.close()
            server.close()
        assert [getattr(error, "reason", None) for error in errors] == ["STORE_DOWN"] * 60
        assert waited_s < 40 * 0.3, "they waited one after another"

    @pytest.mark.parametrize("facts_a_call", [1000, 2])
    async def test_a_fork_stopped_half_way_goes_on_or_gives_way(
        self,
        redis_bank: RedisLog,
        raw: redis.Redis,
        monkeypatch: pytest.MonkeyPatch,
        facts_a_call: int,
    ) -> None:
        monkeypatch.setattr(redis_banks, "INDEX_FACTS", facts_a_call)
        await redis_bank.append(T, B, [write(f"e{n}", f"f{n}") for n in range(9)])
        others = {*raw.keys(), BANK_KEYS.removesuffix(f"{B}:").encode() + b"family"}

        async def stop_at_publishing(version: int) -> None:
            with monkeypatch.context() as patched:
                fork = redis_bank_scripts.FORK
                patched.setattr(fork, "source", "return redis.error_reply('ERR stop')")
                patched.setattr(fork, "sha1", "0" * 40)
                with pytest.raises(LarimarError, match="stop"):
                    await redis_bank.fork(T, B, "fork", version)
            assert await redis_bank.banks(T) == [B]

        await stop_at_publishing(7)
        assert await redis_bank.fork(T, B, "fork", 7) is True
        facts = f"{{{T}:{B}}}:fork:facts"
        assert set(raw.hgetall(facts)) == {f"f{n}".encode() for n in range(7)}
        await redis_bank.drop_bank(T, "fork")
        await stop_at_publishing(8)
        assert await redis_bank.fork(T, B, "fork", 3) is True
        assert raw.hlen(facts) == 3
        await redis_bank.drop_bank(T, "fork")
        await stop_at_publishing(8)
        assert await redis_bank.make_bank(T, "fork", CONFIG) == (CONFIG, True)
        assert not raw.exists(facts)
        await redis_bank.drop_bank(T, "fork")
        assert set(raw.keys()) == others

    async def test_a_fork_dropped_half_way_keeps_nothing_that_was_erased(
        self, redis_bank: RedisLog, raw: redis.Redis
    ) -> None:
        await redis_bank.append(T, B, [write("e1", "f")])
        await redis_bank.fork(T, B, "fork", 1)
        await redis_bank.append(T, "fork", [write("e2", "f", "the fork's")])
        raw.delete(f"{{{T}:{B}}}:fork:config")
        assert list(await redis_bank.family(T, B)) == [B]
        await redis_bank.erase(T, B, [erase("x", "f")])
        assert await redis_bank.remove_payloads(T, B, ["f"]) == 1
        assert (await redis_bank.search(T, B, [b"the fork's"])).found == 0
        assert raw.keys("*:fork:*") == []
        await redis_bank.drop_bank(T, B)
        assert raw.keys() in ([], [f"{{{T}}}:banks".encode()])

    async def test_a_name_that_moves_is_found_by_those_who_knew_it(
        self, redis_bank: RedisLog, store: EmbeddedStore
    ) -> None:
        other = RedisLog(store.url)
        await redis_bank.append(T, B, [write("e1", "f")])
        await redis_bank.make_bank(T, "moves", CONFIG)
        assert (await other.head(T, "moves"))[0] == 0
        await redis_bank.drop_bank(T, "moves")
        await redis_bank.fork(T, B, "moves", 1)
        assert (await other.append(T, "moves", [write("e2", "f")]))[0].version == 2
        await redis_bank.drop_bank(T, "moves")
        await redis_bank.make_bank(T, "moves", CONFIG)
        assert (await other.head(T, "moves"))[0] == 0
        await other.close()

    async def test_a_lost_entry_before_a_fork_point_is_data_loss(
        self, redis_bank: RedisLog, raw: redis.Redis
    ) -> None:
        await redis_bank.append(T, B, [write(f"e{n}", "f") for n in range(1, 5)])
        await redis_bank.fork(T, B, "fork", 3)
        await redis_bank.append(T, "fork", [write("own", "f")])
        raw.xdel(BANK_KEYS + "log", "3-0")
        for page in (1, 2, 9):
            with pytest.raises(DataLoss, match=r"version [23]: the entry is missing"):
                await whole_tail(redis_bank, page, bank="fork")
        with pytest.raises(DataLoss, match="version 3: no entry of fact 'f'"):
            await redis_bank.fact_events(T, "fork", "f")

    @pytest.mark.parametrize("part", [2, 4])
    async def test_no_part_of_an_old_checkpoint_is_taken_after_an_erase(
        self, redis_bank: RedisLog, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch, part: int
    ) -> None:
        await redis_bank.append(T, B, [write("e1", "f")])
        run, parts = redis_bank._run, []

        async def erasing(script, keys, *arguments):
            answer = await run(script, keys, *arguments)
            if script is redis_upkeep_scripts.PUT_PART:
                parts.append(answer)
                if len(parts) == part:
                    await redis_bank.erase(T, B, [erase("x", "f")])
                    if part < 4:
                        await redis_bank.remove_checkpoints(T, B, 2)
            return answer

        monkeypatch.setattr(redis_bank, "_run", erasing)
        assert not await redis_bank.put_checkpoint(T, B, "memory", 1, bytes(4000), {}, 0)
        assert parts == ([1, 1, -1] if part < 4 else [1, 1, 1, 1])
        assert raw.keys("*:part:*") == []
        assert await redis_bank.checkpoints(T, B, "memory") == []

    async def test_a_search_reads_every_type_of_value(
        self, redis_bank: RedisLog, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(redis_upkeep, "SEARCH_ELEMENTS", 10)
        monkeypatch.setattr(redis_upkeep, "FEW_ELEMENTS", 7)
        monkeypatch.setattr(redis_upkeep, "SEARCH_BYTES", 100)
        monkeypatch.setattr(redis_upkeep, "SCAN_KEYS", 3)
        needle, base = b"\x00needle\xff", BANK_KEYS.removesuffix(f"{B}:")
        many = [f"element {n} of many".encode() for n in range(300)]
        many.insert(217, b"hay" + needle + b"hay")
        for n in range(50):
            raw.set(f"{base}plain{n}", n)
        raw.set(base + "string", b"." * 1000 + needle)
        raw.hset(base + "hash-value", mapping=dict(enumerate(many)))
        raw.hset(base + "hash-field", mapping=dict.fromkeys(many, ""))
        raw.sadd(base + "set", *many)
        raw.rpush(base + "list", *many)
        raw.zadd(base + "sorted", {member: n for n, member in enumerate(many)})
        for member in many:
            raw.xadd(base + "stream", {"field": member})
            raw.xadd(f"{{{T}}}:inbox", {"event": member})
        raw.set(f"{{{T}:other}}:string", needle)
        found = await redis_bank.search(T, B, [b"nothing", needle])
        assert (found.keys, found.found) == (1 + 50 + 7 + 1, 8)
        assert (await redis_bank.search(T, B, [b"nothing"])).found == 0

    @pytest.mark.parametrize("taken", [False, True])
    @pytest.mark.parametrize("how", ["make", "fork", "show"])
    async def test_a_bank_made_while_one_of_its_name_is_removed_is_listed(
        self, redis_bank: RedisLog, raw: redis.Redis, monkeypatch, how: str, taken: bool
    ) -> None:
        """The removing call takes the name off the list before the bank is there, and looks too
        early whether it is; and perhaps somebody else takes the name then."""
        await redis_bank.append(T, B, [write("e1", "f")])
        stored = await redis_bank.stored(T, B, 0, 1)
        run, names = redis_bank._run, f"{{{T}}}:banks"

        async def late(script, keys, *arguments):
            if script.name == how and keys.bank == "new" and raw.hget(names, "new") != b"x":
                raw.hdel(names, "new")
                if taken:
                    raw.hset(names, "new", "x")
                    raw.set(Keys(T, "new", "x").config, CONFIG.to_json())
            return await run(script, keys, *arguments)

        monkeypatch.setattr(redis_bank, "_run", late)

        async def made() -> None:
            if how == "make":
                assert (await redis_bank.make_bank(T, "new", CONFIG))[1] is not taken
            elif how == "fork":
                assert await redis_bank.fork(T, B, "new", 1)
            else:
                await redis_bank.load(T, "new", stored)
                await redis_bank.publish(T, "new", CONFIG, [], 1)

        if taken and how != "make":
            with pytest.raises(Conflict):
                await made()
        else:
            await made()
        assert await redis_bank.banks(T) == [B, "new"]
        root = {"make": "new", "fork": B, "show": "new"}[how]
        assert bool(raw.exists(Keys(T, "new", root).config)) is not taken
        assert raw.hget(names, "new") == (b"x" if taken else root.encode())

    async def test_a_search_for_thousands_of_needles_takes_the_store_in_short_steps(
        self, redis_bank: RedisLog, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        needles = [b"needle %d," % n for n in range(8_100)]
        base = BANK_KEYS.removesuffix(f"{B}:")
        for n in (0, 4_000, 8_099):
            raw.set(f"{base}plain{n}", b"." * 900 + needles[n])
        raw.hset(base + "hash", mapping={"field": needles[8_098]})
        raw.set(base + "none", b"." * 900)
        steps, calls = [], redis_bank.calls

        async def noted(commands):
            steps.append(sum(raw.strlen(name) for what, name in commands if what == "GET"))
            return await calls(commands)

        monkeypatch.setattr(redis_bank, "calls", noted)
        monkeypatch.setattr(redis_upkeep, "SEARCH_BYTES", 2_000)
        assert (await redis_bank.search(T, B, needles)).found == 4
        assert 900 < max(steps) <= 2_000
        assert (await redis_bank.search(T, B, needles[:4_000:2])).found == 1
        assert (await redis_bank.search(T, B, [b"0,needle 4", b"none"])).found == 0

    async def test_a_rewrite_that_runs_already_is_not_the_one_asked_for(
        self, redis_bank: RedisLog, raw: redis.Redis
    ) -> None:
        await redis_bank.append(T, B, [write(f"e{n}", f"f{n}", "x" * 9000) for n in range(99)])
        raw.bgrewriteaof()
        before = raw.info("persistence")["aof_base_size"]
        await redis_bank.drop_bank(T, B)
        paths = await redis_bank.rewrite_files()
        assert paths
        assert raw.info("persistence")["aof_base_size"] < before or before < 10_000
        assert not any(b"x" * 9000 in Path(path).read_bytes() for path in paths)
        both = await asyncio.gather(redis_bank.rewrite_files(), redis_bank.rewrite_files())
        assert all(both)

    async def test_checkpoints_leave_no_parts_behind(
        self, redis_bank: RedisLog, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        blob = os.urandom(3500)
        for version in (1, 2, 3, 3):
            await redis_bank.put_checkpoint(T, B, "memory", version, blob, {}, 0)
        parts = raw.keys("*:part:*")
        assert len(parts) == 2 * 4
        assert max(raw.strlen(part) for part in parts) == 1000
        monkeypatch.setattr(
            redis_upkeep_scripts.PUBLISH, "source", "return redis.error_reply('ERR stop')"
        )
        monkeypatch.setattr(redis_upkeep_scripts.PUBLISH, "sha1", "0" * 40)
        with pytest.raises(LarimarError, match="stop"):
            await redis_bank.put_checkpoint(T, B, "memory", 4, blob, {}, 0)
        monkeypatch.undo()
        assert [version for version, _ in await redis_bank.checkpoints(T, B, "memory")] == [3, 2]
        assert len(raw.keys("*:part:*")) == 3 * 4
        monkeypatch.setattr(redis_checkpoints, "ABANDONED_UPLOAD_S", -1)
        await redis_bank.put_checkpoint(T, B, "memory", 5, blob, {}, 0)
        assert len(raw.keys("*:part:*")) == 2 * 4
        assert await redis_bank.get_checkpoint(T, B, "memory", 5) == blob

    async def test_a_damaged_checkpoint_is_refused_and_the_older_one_serves(
        self, redis_bank: RedisLog, raw: redis.Redis
    ) -> None:
        blobs = {version: os.urandom(2500) for version in (1, 2)}
        for version, blob in blobs.items():
            await redis_bank.put_checkpoint(T, B, "memory", version, blob, {}, 0)
        key = sorted(key.decode() for key in raw.keys("*:part:2-*"))[1]
        held = raw.get(key)
        for damage in (
            lambda: flip(raw, key, 77),
            lambda: raw.delete(key),
            lambda: raw.set(key, held[:-1]),
            lambda: raw.hset(BANK_KEYS + "checkpoints", "memory:2", b"2-x:{broken"),
        ):
            damage()
            with pytest.raises(DataLoss, match="at version 2 is damaged") as caught:
                await redis_bank.get_checkpoint(T, B, "memory", 2)
            assert caught.value.reason == "CHECKPOINT_DAMAGED"
            assert await redis_bank.get_checkpoint(T, B, "memory", 1) == blobs[1]
            raw.set(key, held)
        assert await redis_bank.checkpoints(T, B, "memory") == [(1, {})]

    @pytest.mark.parametrize("sweep_entries", [1000, 4, 1])
    async def test_a_dropped_bank_leaves_no_key(
        self,
        redis_bank: RedisLog,
        raw: redis.Redis,
        monkeypatch: pytest.MonkeyPatch,
        sweep_entries: int,
    ) -> None:
        monkeypatch.setattr(redis_banks, "SWEEP_ENTRIES", sweep_entries)
        await redis_bank.make_bank(T, "b2", CONFIG)
        await redis_bank.append(T, "b2", [write("e1", "f")])
        others = set(raw.keys())
        await redis_bank.drop_bank(T, B)
        await redis_bank.make_bank(T, B, CONFIG)
        for n in range(3):
            await redis_bank.append(T, B, [write(f"e{n}-{i}", f"f{i}") for i in range(4)])
            await redis_bank.put_checkpoint(T, B, "memory", n, b"x" * 2500, {}, 0)
        await redis_bank.append(T, B, [forget("last", "f2")])
        assert len(raw.keys()) > len(others)
        assert await redis_bank.drop_bank(T, B) is True
        assert set(raw.keys()) == {key for key in others if not key.startswith(BANK_KEYS.encode())}
        assert await redis_bank.banks(T) == ["b2"]

    async def test_a_half_dropped_bank_is_finished_by_the_next_one_of_its_name(
        self, redis_bank: RedisLog, raw: redis.Redis
    ) -> None:
        await redis_bank.append(T, B, [write(f"e{n}", "f") for n in range(5)])
        raw.delete(BANK_KEYS + "config")
        assert await redis_bank.banks(T) == []
        assert await redis_bank.make_bank(T, B, CONFIG) == (CONFIG, True)
        assert await redis_bank.head(T, B) == (0, "", 0)
        assert raw.keys("*:payload:*") == []
