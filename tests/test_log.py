"""The log's contract, which every store passes: events of one bank, banks, checkpoints.

Forks, erasing and archives are in tests/test_log_family.py and tests/test_log_archive.py.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time

import pytest

from larimar.errors import (
    Conflict,
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
)
from larimar.memory import Kind, next_chain
from services import log_rules
from services.log import MAX_BATCH, Append, ChainBroken, Log, Page
from tests.logs import CONFIG, OTHER_CONFIG, B, T, appended, erase, forget, whole_tail, write

pytest_plugins = ("tests.log_stores",)


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
            log.erase(T, "nope", [erase("e", "f")]),
            log.erased(T, "nope"),
            log.fact_events(T, "nope", "f"),
            log.remove_payloads(T, "nope", []),
            log.fork(T, "nope", "new", 0),
            log.family(T, "nope"),
            log.stored(T, "nope", 0, 10),
            log.remove_checkpoints(T, "nope", 1),
            log.put_record(T, "nope", "name", "text", True),
            log.remove_record(T, "nope", "name"),
            log.record(T, "nope", "name"),
            log.search(T, "nope", [b"needle"]),
            log.put_checkpoint(T, "nope", "memory", 1, b"x", {}, 0),
            log.checkpoints(T, "nope", "memory"),
            log.get_checkpoint(T, "nope", "memory", 1),
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
        assert await log.head(T, B) == (0, "", 0)
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
                event.previous,
            )
            assert event.chain == chain
        assert await log.head(T, B) == (9, chain, 0)

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
            erase("e", "f"),
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
        assert await log.head(T, B) == (0, "", 0)
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
        assert await log.tail(T, B, 45, 10) == Page([], 0)
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
        for module in ("services.memory_bank", "services.redis_reads"):
            monkeypatch.setattr(f"{module}.MAX_PAGE_BYTES", 25 * 1016)
        assert len((await log.tail(T, B, 0, 1000)).entries) == 25
        assert len(await whole_tail(log)) == 40
        assert len(await log.events(T, B, 0, 1000)) == 40

    async def test_a_follower_with_another_history_is_told(self, log: Log) -> None:
        await log.append(T, B, [write("e1", "f"), write("e2", "f")])
        chains = [event.chain for event in await log.events(T, B, 0, 2)]
        assert (await log.tail(T, B, 2, 10, chains[1])).entries == []
        assert len((await log.tail(T, B, 1, 10, chains[0])).entries) == 1
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

    async def test_every_entry_names_the_facts_event_before(self, log: Log) -> None:
        await log.append(
            T,
            B,
            [
                write("e1", "f"),
                write("e2", "g"),
                write("e3", "f"),
                forget("e4", "f"),
                write("e5", "f"),
                forget("e6", "g"),
            ],
        )
        await log.erase(T, B, [erase("e7", "f")])
        previous = [event.previous for event in await log.events(T, B, 0, 9)]
        assert previous == [0, 0, 1, 3, 4, 2, 5]
        assert [e.version for e in await log.fact_events(T, B, "f")] == [7, 5, 4, 3, 1]
        assert await log.fact_events(T, B, "g") == [
            (await log.events(T, B, version - 1, 1))[0] for version in (6, 2)
        ]
        assert await log.fact_events(T, B, "never") == []

    async def test_a_long_history_of_a_fact(self, log: Log) -> None:
        for start in range(0, 2100, 700):
            items = [write(f"e{n}", "f", payload=b"") for n in range(start, start + 700)]
            await log.append(T, B, items)
        history = await log.fact_events(T, B, "f")
        assert [event.version for event in history] == [*range(2100, 0, -1)]
        await log.erase(T, B, [erase("x", "f")])
        assert await log.remove_payloads(T, B, ["f"]) == 2100

    async def test_an_edit_may_expect_the_facts_newest_event(self, log: Log) -> None:
        assert await appended(
            log,
            write("e1", "f", expected=0),
            write("e2", "f", expected=0),
            write("e2", "f", expected=1),
            forget("e3", "f", expected=1),
            forget("e4", "f", expected=2),
            write("e5", "f", expected=2),
            write("e6", "f", expected=3),
            forget("e7", "never", expected=0),
            write("e1", "f", expected=77),
            write("e8", "g", expected=-1),
        ) == [
            (1, False, None),
            (0, False, "FACT_CHANGED"),
            (2, False, None),
            (0, False, "FACT_CHANGED"),
            (3, False, None),
            (0, False, "FACT_CHANGED"),
            (4, False, None),
            (0, False, "UNKNOWN_FACT"),
            (1, True, None),
            (0, False, "INVALID_ARGUMENT"),
        ]
        (refused,) = await log.append(T, B, [write("e9", "f", expected=3)])
        assert isinstance(refused.error, FailedPrecondition)
        assert "'f' has version 4, not 3" in refused.error.message
        (refused,) = await log.erase(T, B, [erase("x", "f", expected=3)])
        assert refused.error and refused.error.reason == "FACT_CHANGED"
        assert (await log.erase(T, B, [erase("x", "f", expected=4)]))[0].version == 5

    async def test_many_appends_at_once_are_each_atomic_and_each_answered(self, log: Log) -> None:
        async def publish(p: int) -> None:
            items = [write(f"p{p}-{i}", f"f{p}", str(p)) for i in range(p % 5)]
            items.insert(len(items) // 2, forget(f"p{p}-x", "never"))
            results = await log.append(T, B, items)
            refused = [item.event_id for item, r in zip(items, results, strict=True) if r.error]
            assert refused == [f"p{p}-x"]
            versions = [r.version for r in results if not r.error]
            if versions:
                assert versions == [*range(versions[0], versions[0] + len(versions))]
            for item, result in zip(items, results, strict=True):
                if not result.error:
                    (event,) = await log.events(T, B, result.version - 1, 1)
                    assert event.event_id == item.event_id

        await asyncio.gather(*(publish(p) for p in range(60)))
        assert (await log.head(T, B))[0] == sum(p % 5 for p in range(60))
        with pytest.raises(NotFound, match="gone"):
            await asyncio.gather(*(log.append(T, "gone", [write(f"e{n}", "f")]) for n in range(9)))

    async def test_a_part_has_its_own_checkpoints(self, log: Log) -> None:
        for version in (1, 2, 10):
            for part in ("memory", "scope"):
                blob = f"{part} at {version}".encode()
                assert await log.put_checkpoint(T, B, part, version, blob, {"part": part}, 0)
        assert await log.checkpoints(T, B, "scope") == [
            (10, {"part": "scope"}),
            (2, {"part": "scope"}),
        ]
        assert await log.get_checkpoint(T, B, "memory", 2) == b"memory at 2"
        assert await log.remove_checkpoints(T, B, 10) == 2
        assert [v for v, _ in await log.checkpoints(T, B, "memory")] == [10]
        for call in (
            log.put_checkpoint(T, B, "a:b", 1, b"", {}, 0),
            log.checkpoints(T, B, ""),
            log.get_checkpoint(T, B, "a:b", 1),
        ):
            with pytest.raises(InvalidArgument, match="part of a state"):
                await call

    async def test_no_checkpoint_of_before_an_erase_is_published(self, log: Log) -> None:
        await log.append(T, B, [write("e1", "f"), write("e2", "g")])
        assert await log.put_checkpoint(T, B, "memory", 2, b"with f", {}, 0)
        await log.erase(T, B, [erase("x", "f")])
        assert not await log.put_checkpoint(T, B, "memory", 3, b"with f", {}, 0)
        assert [v for v, _ in await log.checkpoints(T, B, "memory")] == [2]
        assert await log.remove_checkpoints(T, B, 3) == 1
        assert await log.put_checkpoint(T, B, "memory", 3, b"without", {}, 1)
        assert await log.get_checkpoint(T, B, "memory", 3) == b"without"

    async def test_a_checkpoint_of_a_bank_made_anew_is_not_published(self, log: Log) -> None:
        await log.append(T, B, [write("e1", "f"), write("e2", "g")])
        await log.fork(T, B, "fork", 1)
        _, chain, _ = await log.head(T, B)
        (first,) = await log.events(T, B, 0, 1)
        assert await log.put_checkpoint(T, B, "memory", 2, b"x", {"chain": chain}, 0)
        at_first = ("memory", 1, b"x", {"chain": first.chain}, 0)
        assert await log.put_checkpoint(T, "fork", *at_first)
        await log.drop_bank(T, "fork")
        await log.drop_bank(T, B)
        await log.make_bank(T, B, CONFIG)
        for events in ([], [write("n1", "f"), write("n2", "g")]):
            await log.append(T, B, events)
            assert not await log.put_checkpoint(T, B, "memory", 2, b"x", {"chain": chain}, 0)
            assert not await log.put_checkpoint(T, B, *at_first)
        assert await log.checkpoints(T, B, "memory") == []

    async def test_records_and_jobs(self, log: Log) -> None:
        assert await log.record(T, B, "receipt") is None
        assert await log.put_record(T, B, "receipt", "dräft", True) == "dräft"
        assert await log.put_record(T, B, "receipt", "other", True) == "dräft"
        assert await log.put_record(T, B, "receipt", "done", False) == "done"
        await log.fork(T, B, "fork", 0)
        assert await log.record(T, "fork", "receipt") == "done"
        await log.remove_record(T, "fork", "receipt")
        await log.remove_record(T, B, "receipt")
        assert await log.record(T, B, "receipt") is None
        assert await log.jobs() == []
        jobs = [(T, B, 'a: b\u00e4 "c"'), (T, "fork", "x")]
        for job in [*jobs, jobs[0]]:
            await log.put_job(*job)
        assert await log.jobs() == jobs
        await log.end_job(*jobs[0])
        await log.end_job(*jobs[0])
        assert await log.jobs() == [jobs[1]]
        await log.drop_bank(T, "fork")
        await log.drop_bank(T, B)
        await log.make_bank(T, B, CONFIG)
        assert await log.record(T, B, "receipt") is None

    async def test_two_checkpoints_are_kept(self, log: Log) -> None:
        blobs = {v: os.urandom(size) for v, size in ((0, 1), (3, 2500), (5, 1000), (9, 0))}
        for version, blob in blobs.items():
            await log.put_checkpoint(T, B, "memory", version, blob, {"digest": f"d{version}"}, 0)
        assert await log.checkpoints(T, B, "memory") == [
            (9, {"digest": "d9"}),
            (5, {"digest": "d5"}),
        ]
        assert await log.get_checkpoint(T, B, "memory", 5) == blobs[5]
        assert await log.get_checkpoint(T, B, "memory", 9) == b""
        for gone in (0, 3):
            with pytest.raises(NotFound, match=f"no checkpoint at version {gone}"):
                await log.get_checkpoint(T, B, "memory", gone)
        await log.put_checkpoint(T, B, "memory", 9, blobs[3], {"digest": "again"}, 0)
        assert await log.get_checkpoint(T, B, "memory", 9) == blobs[3]
        assert await log.checkpoints(T, B, "memory") == [
            (9, {"digest": "again"}),
            (5, {"digest": "d5"}),
        ]
        with pytest.raises(InvalidArgument):
            await log.put_checkpoint(T, B, "memory", -1, b"", {}, 0)

    async def test_banks_and_tenants_are_isolated(self, log: Log) -> None:
        await log.make_bank(T, "b2", OTHER_CONFIG)
        await log.make_bank("rival", B, OTHER_CONFIG)
        await log.append(T, B, [write("e1", "f", "mine")])
        await log.put_checkpoint(T, B, "memory", 1, b"mine", {}, 0)
        for tenant, bank in ((T, "b2"), ("rival", B)):
            assert await log.head(tenant, bank) == (0, "", 0)
            assert await log.checkpoints(tenant, bank, "memory") == []
            results = await log.append(tenant, bank, [forget("e2", "f"), write("e1", "f", "own")])
            assert [r.version for r in results] == [0, 1]
        assert await log.banks("rival") == [B]
        assert await log.banks("nobody") == []
        assert await log.drop_bank("rival", B) is True
        assert await log.banks("rival") == []
        assert await log.banks(T) == ["b2", B]
        assert (await whole_tail(log))[0][1] == b"payload of e1: mine"

    async def test_a_bank_that_was_edited_since_is_not_dropped(self, log: Log) -> None:
        await log.append(T, B, [write("e1", "f")])
        version, chain, _ = await log.head(T, B)
        await log.append(T, B, [write("e2", "f")])
        for head in ((version, chain), (2, chain), (0, "")):
            with pytest.raises(FailedPrecondition) as caught:
                await log.drop_bank(T, B, head)
            assert caught.value.reason == "BANK_EDITED"
        assert len(await whole_tail(log)) == 2
        version, chain, _ = await log.head(T, B)
        assert await log.drop_bank(T, B, (version, chain)) is True
        assert await log.drop_bank(T, B, (version, chain)) is False

    async def test_a_dropped_bank_starts_anew(self, log: Log) -> None:
        await log.append(T, B, [write(f"e{n}", "f") for n in range(5)])
        await log.put_checkpoint(T, B, "memory", 5, b"x" * 3000, {}, 0)
        old_head = await log.head(T, B)
        assert await log.drop_bank(T, B) is True
        assert await log.drop_bank(T, B) is False
        assert await log.make_bank(T, B, OTHER_CONFIG) == (OTHER_CONFIG, True)
        assert await appended(log, forget("e9", "f"), write("e0", "f", "other")) == [
            (0, False, "UNKNOWN_FACT"),
            (1, False, None),
        ]
        assert await log.checkpoints(T, B, "memory") == []
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
        for module in ("services.memory_log", "services.redis_banks"):
            monkeypatch.setattr(f"{module}.MAX_BANKS", 2)
        await log.make_bank(T, "b2", CONFIG)
        with pytest.raises(ResourceExhausted, match="delete one first"):
            await log.make_bank(T, "b3", CONFIG)
        assert await log.make_bank(T, "b2", CONFIG) == (CONFIG, False)
        await log.ping()
