"""The log: one contract for every store, then what only a store with damage and outages shows."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
import redis
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from larimar.errors import (
    Conflict,
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    LarimarError,
    NotFound,
    ResourceExhausted,
)
from larimar.memory import BankConfig, Kind, next_chain, request_body
from services import log_rules, redis_log, redis_scripts
from services.log import MAX_BATCH, Append, Appended, ChainBroken, Log, MemoryLog
from services.redis_log import RedisLog
from services.store import EmbeddedStore

CONFIG = BankConfig(prompt_size=4, value_size=4, scope_size=4)
OTHER_CONFIG = BankConfig(prompt_size=4, value_size=4, scope_size=5)
T, B = "acme", "default"


def write(event_id: str, fact_id: str, answer: str = "a", payload: bytes | None = None) -> Append:
    body = request_body(Kind.WRITE, fact_id, "p", answer)
    if payload is None:
        payload = f"payload of {event_id}: {answer}".encode()
    return Append(Kind.WRITE, event_id, fact_id, body, payload)


def forget(event_id: str, fact_id: str) -> Append:
    return Append(Kind.FORGET, event_id, fact_id, request_body(Kind.FORGET, fact_id))


def outcome(result: Appended) -> tuple:
    reason = result.error.reason if result.error else None
    return (result.version, result.duplicate, type(result.error), reason)


async def appended(log: Log, *items: Append, bank: str = B) -> list[tuple[int, bool, str | None]]:
    results = await log.append(T, bank, items)
    return [(r.version, r.duplicate, r.error.reason if r.error else None) for r in results]


async def whole_tail(log: Log, page: int = 1000, tenant: str = T, bank: str = B) -> list:
    found: list = []
    while entries := await log.tail(
        tenant, bank, len(found), page, found[-1][0].chain if found else ""
    ):
        found += entries
    return found


@pytest.fixture(scope="session")
def store() -> Iterator[EmbeddedStore]:
    folder = tempfile.mkdtemp(prefix="test-log-")
    with EmbeddedStore(folder) as running:
        yield running
    shutil.rmtree(folder)


@pytest.fixture
def raw(store: EmbeddedStore) -> Iterator[redis.Redis]:
    """A client that does what no service may; finds and leaves an empty store."""
    with redis.Redis.from_url(store.url) as client:
        client.flushall()
        yield client
        client.flushall()


@pytest_asyncio.fixture
async def redis_bank(store: EmbeddedStore, raw: redis.Redis) -> AsyncIterator[RedisLog]:
    log = RedisLog(store.url, part_bytes=1000)
    await log.make_bank(T, B, CONFIG)
    yield log
    await log.close()


@pytest_asyncio.fixture(params=["memory", "redis"])
async def log(
    request: pytest.FixtureRequest, store: EmbeddedStore, raw: redis.Redis
) -> AsyncIterator[Log]:
    made: Log = MemoryLog() if request.param == "memory" else RedisLog(store.url, part_bytes=1000)
    await made.make_bank(T, B, CONFIG)
    yield made
    await made.close()


@pytest.mark.asyncio
class TestLog:
    """What every store promises."""

    async def test_a_bank_is_made_once_and_never_changes(self, log: Log) -> None:
        assert await log.make_bank(T, B, CONFIG) == (CONFIG, False)
        assert await log.make_bank(T, "b2", OTHER_CONFIG) == (OTHER_CONFIG, True)
        with pytest.raises(Conflict, match="another configuration"):
            await log.make_bank(T, B, OTHER_CONFIG)
        assert await log.bank_config(T, B) == CONFIG
        assert await log.banks(T) == ["b2", B]

    async def test_unknown_banks_are_named(self, log: Log) -> None:
        calls = [
            log.bank_config(T, "nope"),
            log.append(T, "nope", [write("e", "f")]),
            log.append(T, "nope", []),
            log.head(T, "nope"),
            log.tail(T, "nope", 0, 10),
            log.events(T, "nope", 0, 10),
            log.payloads(T, "nope", []),
            log.put_checkpoint(T, "nope", 1, b"x", {}),
            log.checkpoints(T, "nope"),
            log.get_checkpoint(T, "nope", 1),
        ]
        for call in calls:
            with pytest.raises(NotFound, match="nope") as caught:
                await call
            assert caught.value.reason == "UNKNOWN_BANK"
        assert await log.drop_bank(T, "nope") is False

    @pytest.mark.parametrize("name", ["", "a:b", "{a}", "a b", "-a", "a\0", "é", "x" * 64])
    async def test_names_cannot_stand_for_other_keys(self, log: Log, name: str) -> None:
        for call in (log.make_bank(name, B, CONFIG), log.make_bank(T, name, CONFIG)):
            with pytest.raises(InvalidArgument, match="letters, digits"):
                await call

    async def test_versions_are_dense_and_the_chain_is_the_librarys(self, log: Log) -> None:
        before_ms = time.time_ns() // 10**6
        assert await log.head(T, B) == (0, "")
        for n in range(4):
            assert await appended(log, write(f"e{n}", f"fäct {n}"), write(f"é{n}", "same")) == [
                (2 * n + 1, False, None),
                (2 * n + 2, False, None),
            ]
        assert await appended(log, forget("last", "same")) == [(9, False, None)]
        chain = ""
        for n, (event, payload) in enumerate(await whole_tail(log), start=1):
            assert event.version == n
            assert before_ms - 1000 <= event.time_ms <= time.time_ns() // 10**6 + 1000
            assert (payload is None) == (event.kind == Kind.FORGET) == (event.payload_sha256 == "")
            chain = next_chain(
                chain,
                event.version,
                event.kind,
                event.fact_id,
                event.event_id,
                event.time_ms,
                event.payload_sha256,
            )
            assert event.chain == chain
        assert await log.head(T, B) == (9, chain)

    async def test_the_same_event_twice_is_one_event(self, log: Log) -> None:
        assert await appended(log, write("e1", "f"), write("e1", "f")) == [
            (1, False, None),
            (1, True, None),
        ]
        assert await appended(log, forget("e2", "f"), forget("e2", "f")) == [
            (2, False, None),
            (2, True, None),
        ]
        assert await appended(log, write("e1", "f"), forget("e2", "f")) == [
            (1, True, None),
            (2, True, None),
        ]
        assert (await log.head(T, B))[0] == 2

    async def test_the_request_decides_a_duplicate_not_its_vectors(self, log: Log) -> None:
        await log.append(T, B, [write("e1", "f", payload=b"latents of one encoder")])
        again = write("e1", "f", payload=b"latents of another")
        assert await appended(log, again) == [(1, True, None)]
        assert await log.payloads(T, B, [1]) == [b"latents of one encoder"]

    async def test_a_conflict_is_alone_in_its_batch(self, log: Log) -> None:
        await log.append(T, B, [write("e1", "f"), write("e2", "g"), forget("e3", "g")])
        results = await log.append(
            T,
            B,
            [
                write("e4", "h"),
                write("e1", "f", "another answer"),
                forget("e1", "f"),
                write("e3", "g"),
                forget("e3", "f"),
                write("e4", "h", "another answer"),
                write("e5", "i"),
            ],
        )
        assert [r.version for r in results] == [4, 0, 0, 0, 0, 0, 5]
        for result in results[1:6]:
            assert isinstance(result.error, Conflict)
            assert result.error.reason == "CONFLICT"
            assert "take a new event id" in result.error.message
        assert "'e1'" in results[1].error.message
        assert "version 1" in results[1].error.message
        assert len(await whole_tail(log)) == 5

    async def test_a_write_of_a_live_fact_is_one_event(self, log: Log) -> None:
        await log.append(T, B, [write("e1", "f", "old"), write("e2", "f", "new")])
        assert [e.kind for e, _ in await whole_tail(log)] == [Kind.WRITE, Kind.WRITE]
        assert await appended(log, forget("e3", "f")) == [(3, False, None)]
        assert await appended(log, forget("e4", "f")) == [(0, False, "ALREADY_FORGOTTEN")]

    async def test_forget_errors_hit_their_item_and_use_up_nothing(self, log: Log) -> None:
        assert await appended(
            log, forget("e1", "never"), write("e2", "f"), forget("e3", "f"), forget("e4", "f")
        ) == [
            (0, False, "UNKNOWN_FACT"),
            (1, False, None),
            (2, False, None),
            (0, False, "ALREADY_FORGOTTEN"),
        ]
        assert await appended(log, write("e5", "f"), write("e1", "never")) == [
            (3, False, None),
            (4, False, None),
        ]
        assert await appended(log, forget("e4", "f")) == [(5, False, None)]

    @pytest.mark.parametrize(
        "bad",
        [
            write("", "f"),
            write("e", ""),
            write("e\0", "f"),
            Append(Kind.WRITE, "e", "f\0", b"", b"p"),
            Append(Kind.WRITE, "\udc80", "f", b"", b"p"),
            write("e" * 257, "f"),
            Append(Kind.WRITE, "e", "f", b"", None),
            Append(Kind.FORGET, "e", "f", b"", b"p"),
            Append("X", "e", "f", b"", b"p"),
            write("e", "f", payload=b"0" * (log_rules.MAX_PAYLOAD_BYTES + 1)),
        ],
        ids=lambda bad: f"{bad.kind}-{bad.event_id[:3]!r}-{bad.fact_id!r}",
    )
    async def test_a_malformed_item_is_refused_alone(self, log: Log, bad: Append) -> None:
        first, second, third = await log.append(T, B, [write("ok1", "f"), bad, write("ok2", "f")])
        assert (first.version, third.version) == (1, 2)
        assert isinstance(second.error, InvalidArgument)

    async def test_a_batch_has_limits(self, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
        items = [write(f"e{n}", f"f{n}") for n in range(MAX_BATCH + 1)]
        with pytest.raises(InvalidArgument, match=str(MAX_BATCH)):
            await log.append(T, B, items)
        monkeypatch.setattr(log_rules, "MAX_BATCH_BYTES", 30)
        with pytest.raises(InvalidArgument, match="at most 30"):
            await log.append(T, B, items[:2])
        assert await log.head(T, B) == (0, "")
        monkeypatch.undo()
        assert [r.version for r in await log.append(T, B, items[:-1])] == [*range(1, 1001)]

    async def test_eight_publishers_make_one_dense_log(self, log: Log) -> None:
        async def publish(p: int) -> list[tuple[str, int]]:
            made = []
            for n in range(6):
                items = [write(f"p{p}-{n}-{i}", f"f{i}") for i in range(3)]
                results = await log.append(T, B, items)
                versions = [r.version for r in results]
                assert versions == [*range(versions[0], versions[0] + 3)], "a batch was split"
                made += [(item.event_id, v) for item, v in zip(items, versions, strict=True)]
            return made

        made = dict(itertools.chain(*await asyncio.gather(*(publish(p) for p in range(8)))))
        entries = await whole_tail(log)
        assert {event.event_id: event.version for event, _ in entries} == made
        assert len(entries) == 8 * 6 * 3

    async def test_tail_pages(self, log: Log) -> None:
        await log.append(T, B, [write(f"e{n}", f"f{n % 7}") for n in range(1, 45)])
        await log.append(T, B, [forget("e45", "f3")])
        whole = await whole_tail(log)
        assert [event.version for event, _ in whole] == [*range(1, 46)]
        assert whole[20][1] == b"payload of e21: a"
        for page in (1, 7, 17, 44, 45, 46):
            assert await whole_tail(log, page) == whole
        assert await log.tail(T, B, 45, 10) == []
        assert await log.events(T, B, 0, 10**9) == [event for event, _ in whole]
        assert await log.events(T, B, 40, 3) == [event for event, _ in whole[40:43]]
        assert await log.events(T, B, 45, 3) == await log.events(T, B, 99, 3) == []
        assert await log.payloads(T, B, [40, 2, 40]) == [whole[39][1], whole[1][1], whole[39][1]]
        for after, limit in ((-1, 1), (0, 0)):
            with pytest.raises(InvalidArgument):
                await log.tail(T, B, after, limit)

    async def test_a_page_ends_at_its_bytes(
        self, log: Log, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await log.append(T, B, [write(f"e{n}", "f", payload=bytes(1000)) for n in range(40)])
        for module in ("services.log", "services.redis_log"):
            monkeypatch.setattr(f"{module}.MAX_PAGE_BYTES", 25 * 1016)
        assert len(await log.tail(T, B, 0, 1000)) == 25
        assert len(await whole_tail(log)) == 40
        assert len(await log.events(T, B, 0, 1000)) == 40

    async def test_a_follower_with_another_history_is_told(self, log: Log) -> None:
        await log.append(T, B, [write("e1", "f"), write("e2", "f")])
        chains = [event.chain for event in await log.events(T, B, 0, 2)]
        assert await log.tail(T, B, 2, 10, chains[1]) == []
        assert len(await log.tail(T, B, 1, 10, chains[0])) == 1
        for after, chain in ((2, chains[0]), (1, "0" * 40), (3, chains[1]), (3, None)):
            with pytest.raises(ChainBroken, match="fold it again") as caught:
                await log.tail(T, B, after, 10, chain)
            assert caught.value.reason == "LOG_CHANGED"
            assert isinstance(caught.value, FailedPrecondition)

    async def test_a_payload_that_never_was_is_data_loss(self, log: Log) -> None:
        await log.append(T, B, [write("e1", "f"), forget("e2", "f")])
        for version in (2, 3):
            with pytest.raises(DataLoss, match=f"'{B}', version {version}"):
                await log.payloads(T, B, [1, version])

    async def test_two_checkpoints_are_kept(self, log: Log) -> None:
        blobs = {v: os.urandom(size) for v, size in ((0, 1), (3, 2500), (5, 1000), (9, 0))}
        for version, blob in blobs.items():
            await log.put_checkpoint(T, B, version, blob, {"digest": f"d{version}"})
        assert await log.checkpoints(T, B) == [(9, {"digest": "d9"}), (5, {"digest": "d5"})]
        assert await log.get_checkpoint(T, B, 5) == blobs[5]
        assert await log.get_checkpoint(T, B, 9) == b""
        for gone in (0, 3):
            with pytest.raises(NotFound, match=f"no checkpoint at version {gone}"):
                await log.get_checkpoint(T, B, gone)
        await log.put_checkpoint(T, B, 9, blobs[3], {"digest": "again"})
        assert await log.get_checkpoint(T, B, 9) == blobs[3]
        assert await log.checkpoints(T, B) == [(9, {"digest": "again"}), (5, {"digest": "d5"})]
        with pytest.raises(InvalidArgument):
            await log.put_checkpoint(T, B, -1, b"", {})

    async def test_banks_and_tenants_are_isolated(self, log: Log) -> None:
        await log.make_bank(T, "b2", OTHER_CONFIG)
        await log.make_bank("rival", B, OTHER_CONFIG)
        await log.append(T, B, [write("e1", "f", "mine")])
        await log.put_checkpoint(T, B, 1, b"mine", {})
        for tenant, bank in ((T, "b2"), ("rival", B)):
            assert await log.head(tenant, bank) == (0, "")
            assert await log.checkpoints(tenant, bank) == []
            results = await log.append(tenant, bank, [forget("e2", "f"), write("e1", "f", "own")])
            assert [r.version for r in results] == [0, 1]
        assert await log.banks("rival") == [B]
        assert await log.banks("nobody") == []
        assert await log.drop_bank("rival", B) is True
        assert await log.banks("rival") == []
        assert await log.banks(T) == ["b2", B]
        assert (await whole_tail(log))[0][1] == b"payload of e1: mine"

    async def test_a_dropped_bank_starts_anew(self, log: Log) -> None:
        await log.append(T, B, [write(f"e{n}", "f") for n in range(5)])
        await log.put_checkpoint(T, B, 5, b"x" * 3000, {})
        old_head = await log.head(T, B)
        assert await log.drop_bank(T, B) is True
        assert await log.drop_bank(T, B) is False
        assert await log.make_bank(T, B, OTHER_CONFIG) == (OTHER_CONFIG, True)
        assert await appended(log, forget("e9", "f"), write("e0", "f", "other")) == [
            (0, False, "UNKNOWN_FACT"),
            (1, False, None),
        ]
        assert await log.checkpoints(T, B) == []
        with pytest.raises(ChainBroken):
            await log.tail(T, B, old_head[0], 10, old_head[1])

    async def test_a_bank_has_a_limit(self, log: Log) -> None:
        log._max_events = 3
        await log.append(T, B, [write("e1", "f"), write("e2", "f")])
        assert await appended(log, write("e3", "f"), write("e4", "f"), write("e3", "f")) == [
            (3, False, None),
            (0, False, "BANK_FULL"),
            (3, True, None),
        ]

    async def test_a_tenant_has_a_limit(self, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in ("services.log", "services.redis_log"):
            monkeypatch.setattr(f"{module}.MAX_BANKS", 2)
        await log.make_bank(T, "b2", CONFIG)
        with pytest.raises(ResourceExhausted, match="delete one first"):
            await log.make_bank(T, "b3", CONFIG)
        assert await log.make_bank(T, "b2", CONFIG) == (CONFIG, False)
        await log.ping()


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
            assert len(await redis_bank.tail(T, B, version, 100)) == 30 - version
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

        for change in ({b"fact": b"f4"}, {b"time_ms": b"1"}, {b"chain": b"0" * 40}):
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
            assert len(await redis_bank.tail(T, B, 0, 10)) == n
        assert raw.script_exists(redis_scripts.APPEND.sha1) == [False]
        await appended(redis_bank, write("e9", "f"))
        assert raw.script_exists(redis_scripts.APPEND.sha1) == [True]

    async def test_an_erased_fact_stays_erased(
        self, redis_bank: RedisLog, raw: redis.Redis
    ) -> None:
        await redis_bank.append(T, B, [write("e1", "f"), write("e2", "g")])
        raw.hset(BANK_KEYS + "facts", "f", "erased")
        raw.delete(BANK_KEYS + "payload:1")
        assert await appended(redis_bank, write("e3", "f"), forget("e4", "f")) == [
            (0, False, "ERASED"),
            (0, False, "ERASED"),
        ]
        unchecked = write("e1", "f", "another answer")
        assert await appended(redis_bank, unchecked) == [(1, True, None)]

    async def test_checkpoints_leave_no_parts_behind(
        self, redis_bank: RedisLog, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        blob = os.urandom(3500)
        for version in (1, 2, 3, 3):
            await redis_bank.put_checkpoint(T, B, version, blob, {})
        parts = raw.keys("*:part:*")
        assert len(parts) == 2 * 4
        assert max(raw.strlen(part) for part in parts) == 1000
        monkeypatch.setattr(redis_scripts.PUBLISH, "source", "return redis.error_reply('ERR stop')")
        monkeypatch.setattr(redis_scripts.PUBLISH, "sha1", "0" * 40)
        with pytest.raises(LarimarError, match="stop"):
            await redis_bank.put_checkpoint(T, B, 4, blob, {})
        monkeypatch.undo()
        assert [version for version, _ in await redis_bank.checkpoints(T, B)] == [3, 2]
        assert len(raw.keys("*:part:*")) == 3 * 4
        monkeypatch.setattr(redis_log, "ABANDONED_UPLOAD_S", -1)
        await redis_bank.put_checkpoint(T, B, 5, blob, {})
        assert len(raw.keys("*:part:*")) == 2 * 4
        assert await redis_bank.get_checkpoint(T, B, 5) == blob

    async def test_a_damaged_checkpoint_is_refused_and_the_older_one_serves(
        self, redis_bank: RedisLog, raw: redis.Redis
    ) -> None:
        blobs = {version: os.urandom(2500) for version in (1, 2)}
        for version, blob in blobs.items():
            await redis_bank.put_checkpoint(T, B, version, blob, {})
        key = sorted(key.decode() for key in raw.keys("*:part:2-*"))[1]
        held = raw.get(key)
        for damage in (
            lambda: flip(raw, key, 77),
            lambda: raw.delete(key),
            lambda: raw.set(key, held[:-1]),
            lambda: raw.hset(BANK_KEYS + "checkpoints", "2", b"2-x:{broken"),
        ):
            damage()
            with pytest.raises(DataLoss, match="at version 2 is damaged") as caught:
                await redis_bank.get_checkpoint(T, B, 2)
            assert caught.value.reason == "CHECKPOINT_DAMAGED"
            assert await redis_bank.get_checkpoint(T, B, 1) == blobs[1]
            raw.set(key, held)
        assert await redis_bank.checkpoints(T, B) == [(1, {})]

    @pytest.mark.parametrize("sweep_entries", [1000, 4, 1])
    async def test_a_dropped_bank_leaves_no_key(
        self,
        redis_bank: RedisLog,
        raw: redis.Redis,
        monkeypatch: pytest.MonkeyPatch,
        sweep_entries: int,
    ) -> None:
        monkeypatch.setattr(redis_log, "SWEEP_ENTRIES", sweep_entries)
        await redis_bank.make_bank(T, "b2", CONFIG)
        await redis_bank.append(T, "b2", [write("e1", "f")])
        others = set(raw.keys())
        await redis_bank.drop_bank(T, B)
        await redis_bank.make_bank(T, B, CONFIG)
        for n in range(3):
            await redis_bank.append(T, B, [write(f"e{n}-{i}", f"f{i}") for i in range(4)])
            await redis_bank.put_checkpoint(T, B, n, b"x" * 2500, {})
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
        assert await redis_bank.head(T, B) == (0, "")
        assert raw.keys("*:payload:*") == []


FACTS, EVENTS = st.sampled_from(["f1", "f2", "f3"]), st.sampled_from([f"e{n}" for n in range(9)])
ITEMS = st.one_of(
    st.builds(write, EVENTS, FACTS, st.sampled_from(["a", "b"])), st.builds(forget, EVENTS, FACTS)
)


class LogsSideBySide(RuleBasedStateMachine):
    """The durable log answers every history as its simple twin does."""

    url: str

    @initialize()
    def open(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.logs: list[Log] = [MemoryLog(), RedisLog(self.url, part_bytes=2)]
        assert self.both(lambda log: log.make_bank(T, B, CONFIG)) == (CONFIG, True)

    def both(self, call):
        """The answer that both give, or the kind of error that both raise."""
        answers = []
        for log in self.logs:
            try:
                answers.append(self.loop.run_until_complete(call(log)))
            except LarimarError as error:
                answers.append((type(error), error.message, error.reason))
        if isinstance(answers[0], list) and answers[0] and isinstance(answers[0][0], Appended):
            answers = [[outcome(result) for result in answer] for answer in answers]
        assert answers[0] == answers[1]
        return answers[0]

    @rule(items=st.lists(ITEMS, max_size=5))
    def append(self, items: list[Append]) -> None:
        self.both(lambda log: log.append(T, B, items))

    @rule(after=st.integers(0, 12), limit=st.integers(1, 6))
    def read(self, after: int, limit: int) -> None:
        async def page(log: Log) -> list:
            entries = await log.tail(T, B, after, limit)
            assert [event for event, _ in entries] == await log.events(T, B, after, limit)
            return [(e.version, e.kind, e.fact_id, e.event_id, p) for e, p in entries]

        self.both(page)

    @rule(version=st.integers(0, 9), blob=st.binary(max_size=7))
    def checkpoint(self, version: int, blob: bytes) -> None:
        self.both(lambda log: log.put_checkpoint(T, B, version, blob, {"n": str(len(blob))}))
        self.both(lambda log: log.get_checkpoint(T, B, version))

    @rule(config=st.sampled_from([CONFIG, OTHER_CONFIG]))
    def make(self, config: BankConfig) -> None:
        self.both(lambda log: log.make_bank(T, B, config))

    @rule()
    def drop(self) -> None:
        self.both(lambda log: log.drop_bank(T, B))

    @invariant()
    def equal(self) -> None:
        async def summary(log: Log) -> tuple:
            entries = await whole_tail(log, page=4)
            payloads = [payload for _, payload in entries]
            return (await log.head(T, B))[0], payloads, await log.checkpoints(T, B)

        if hasattr(self, "logs"):
            self.both(lambda log: log.banks(T))
            self.both(summary)

    def teardown(self) -> None:
        for log in self.logs:
            self.loop.run_until_complete(log.drop_bank(T, B))
            self.loop.run_until_complete(log.close())
        self.loop.close()


def test_the_logs_agree_on_any_history(store: EmbeddedStore, raw: redis.Redis) -> None:
    LogsSideBySide.url = store.url
    bounded = settings(max_examples=50, stateful_step_count=15, deadline=None, database=None)
    run_state_machine_as_test(LogsSideBySide, settings=bounded)
    assert raw.keys() == []
