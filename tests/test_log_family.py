"""The log's contract for families: forks, and erasing across them. Every store passes it."""

from __future__ import annotations

import asyncio

import pytest

from larimar.errors import (
    Conflict,
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    ResourceExhausted,
)
from larimar.memory import Kind, next_chain
from services.log import Log, Origin
from tests.logs import (
    CONFIG,
    OTHER_CONFIG,
    B,
    T,
    appended,
    erase,
    erased,
    forget,
    whole_tail,
    write,
)

pytest_plugins = ("tests.log_stores",)

ITEMS = [
    write("e1", "f"),
    write("e2", "g"),
    write("e3", "f"),
    forget("e4", "g"),
    write("e5", "h"),
    write("e6", "g"),
]


def check_chain(entries: list) -> None:
    """One unbroken chain of dense versions, by the library's own function."""
    chain = ""
    for version, (event, _) in enumerate(entries, start=1):
        assert event.version == version
        chain = next_chain(
            chain,
            version,
            event.kind,
            event.fact_id,
            event.event_id,
            event.time_ms,
            event.payload_sha256,
            event.previous,
        )
        assert event.chain == chain


@pytest.mark.asyncio
class TestForks:
    """A fork's log is its origin's up to the fork point, and its own from there."""

    @pytest.mark.parametrize("version", range(len(ITEMS) + 1))
    async def test_a_fork_at_any_version_goes_on_from_there(self, log: Log, version: int) -> None:
        await log.append(T, B, ITEMS)
        whole = await whole_tail(log)
        assert await log.fork(T, B, "fork", version) is True
        assert await log.fork(T, B, "fork", version) is False
        assert await log.bank_config(T, "fork") == CONFIG
        assert await log.banks(T) == [B, "fork"]
        assert await whole_tail(log, bank="fork") == whole[:version]
        chain = whole[version - 1][0].chain if version else ""
        assert await log.head(T, "fork") == (version, chain, 0)
        assert await log.family(T, "fork") == await log.family(T, B) == {
            B: None,
            "fork": Origin(B, version, chain),
        }  # fmt: skip
        assert await appended(log, write("e7", "f", "own"), write("e8", "n"), bank="fork") == [
            (version + 1, False, None),
            (version + 2, False, None),
        ]
        assert await appended(log, write("e7", "f", "origin's")) == [(7, False, None)]
        assert len(await whole_tail(log)) == 7
        own = await whole_tail(log, bank="fork")
        check_chain(own)
        assert own[:version] == whole[:version]
        assert [payload for _, payload in own[version:]] == [
            b"payload of e7: own",
            b"payload of e8: a",
        ]
        before = [e.version for e, _ in whole[:version] if e.fact_id == "f"]
        assert own[version][0].previous == (before[-1] if before else 0)
        assert [e.version for e in await log.fact_events(T, "fork", "f")] == [
            version + 1,
            *reversed(before),
        ]
        for page in range(1, version + 3):
            assert await whole_tail(log, page, bank="fork") == own
        for after in range(version + 3):
            events = await log.events(T, "fork", after, 100)
            assert events == [event for event, _ in own[after : after + len(events)]]
            assert bool(events) == (after < len(own))
        written = [event.version for event, _ in own if event.kind == Kind.WRITE]
        assert await log.payloads(T, "fork", written) == [own[v - 1][1] for v in written]

    async def test_the_facts_are_those_of_the_fork_point(self, log: Log) -> None:
        await log.append(T, B, ITEMS)
        expected = {
            1: [(2, False, None), (0, False, "UNKNOWN_FACT"), (0, False, "UNKNOWN_FACT")],
            4: [(5, False, None), (0, False, "ALREADY_FORGOTTEN"), (0, False, "UNKNOWN_FACT")],
            6: [(7, False, None), (8, False, None), (9, False, None)],
        }
        for version, outcomes in expected.items():
            fork = f"fork-{version}"
            await log.fork(T, B, fork, version)
            items = [forget("x", "f"), forget("y", "g"), forget("z", "h")]
            assert await appended(log, *items, bank=fork) == outcomes
        assert await appended(log, write("n", "f", expected=3)) == [(7, False, None)]

    async def test_event_ids_before_the_fork_point_are_taken_and_no_others(self, log: Log) -> None:
        await log.append(T, B, ITEMS)
        await log.fork(T, B, "fork", 3)
        assert await appended(
            log,
            write("e3", "f"),
            write("e1", "f", "another answer"),
            write("e4", "h"),
            write("e4", "h"),
            bank="fork",
        ) == [(3, True, None), (0, False, "CONFLICT"), (4, False, None), (4, True, None)]

    async def test_forks_of_forks(self, log: Log) -> None:
        await log.append(T, B, ITEMS[:3])
        await log.fork(T, B, "one", 3)
        await log.append(T, "one", ITEMS[3:])
        await log.fork(T, "one", "two", 5)
        await log.append(T, "two", [write("e7", "f"), forget("e8", "h")])
        await log.fork(T, "two", "early", 2)
        await log.fork(T, "two", "middle", 4)
        await log.fork(T, "two", "edge", 5)
        await log.append(T, B, [write("e9", "f")])
        chains = [event.chain for event, _ in await whole_tail(log, bank="two")]
        assert await log.family(T, B) == {
            B: None,
            "one": Origin(B, 3, chains[2]),
            "two": Origin("one", 5, chains[4]),
            "early": Origin(B, 2, chains[1]),
            "middle": Origin("one", 4, chains[3]),
            "edge": Origin("two", 5, chains[4]),
        }
        two = await whole_tail(log, bank="two")
        check_chain(two)
        for page in range(1, 9):
            assert await whole_tail(log, page, bank="two") == two
        for fork, version in (("early", 2), ("middle", 4), ("edge", 5)):
            assert await whole_tail(log, 2, bank=fork) == two[:version]
            await log.append(T, fork, [write("new", "f")])
            check_chain(await whole_tail(log, 1, bank=fork))
        assert await appended(log, write("e2", "g"), write("e4", "f"), bank="edge") == [
            (2, True, None),
            (0, False, "CONFLICT"),
        ]
        with pytest.raises(FailedPrecondition, match="edge"):
            await log.drop_bank(T, "two")
        for bank in ("edge", "middle", "two", "one", "early", B):
            assert await log.drop_bank(T, bank) is True
        assert await log.banks(T) == []

    async def test_what_a_fork_may_not_be(self, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
        await log.append(T, B, ITEMS)
        with pytest.raises(FailedPrecondition, match="is at version 6, not yet at 7") as caught:
            await log.fork(T, B, "fork", 7)
        assert caught.value.reason == "VERSION_NOT_WRITTEN"
        with pytest.raises(InvalidArgument):
            await log.fork(T, B, "fork", -1)
        with pytest.raises(InvalidArgument, match="letters"):
            await log.fork(T, B, "a:b", 1)
        await log.make_bank(T, "taken", CONFIG)
        await log.fork(T, B, "fork", 3)
        for new, version in (("taken", 3), ("fork", 2), (B, 6)):
            with pytest.raises(Conflict) as conflict:
                await log.fork(T, B, new, version)
            assert conflict.value.reason == "BANK_EXISTS"
        assert await log.make_bank(T, "fork", CONFIG) == (CONFIG, False)
        with pytest.raises(Conflict, match="another configuration"):
            await log.make_bank(T, "fork", OTHER_CONFIG)
        for module in ("services.memory_log", "services.redis_banks"):
            monkeypatch.setattr(f"{module}.MAX_BANKS", 3)
        with pytest.raises(ResourceExhausted, match="delete one first"):
            await log.fork(T, B, "one-more", 3)

    async def test_a_family_has_a_limit(self, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in ("memory_log", "redis_banks", "log_rules"):
            monkeypatch.setattr(f"services.{module}.MAX_FAMILY", 3)
        for n in range(2):
            assert await log.fork(T, B, f"fork{n}", 0) is True
        with pytest.raises(ResourceExhausted, match="3 banks, the most of a family") as caught:
            await log.fork(T, "fork0", "one-more", 0)
        assert caught.value.reason == "TOO_MANY_FORKS" and "one-more" not in await log.banks(T)
        assert await log.fork(T, B, "fork1", 0) is False
        await log.drop_bank(T, "fork0")
        assert await log.fork(T, B, "one-more", 0) is True

    async def test_a_name_may_change_its_family(self, log: Log) -> None:
        await log.append(T, B, ITEMS)
        await log.fork(T, B, "x", 3)
        await log.append(T, "x", [write("own", "f")])
        with pytest.raises(FailedPrecondition, match="delete those first") as caught:
            await log.drop_bank(T, B)
        assert caught.value.reason == "HAS_FORKS"
        assert await log.drop_bank(T, "x") is True
        assert await log.make_bank(T, "x", OTHER_CONFIG) == (OTHER_CONFIG, True)
        assert await log.head(T, "x") == (0, "", 0)
        assert await log.family(T, "x") == {"x": None}
        assert await log.drop_bank(T, "x") is True
        await log.make_bank(T, "root", CONFIG)
        await log.append(T, "root", [write("r1", "f")])
        await log.fork(T, "root", "x", 1)
        assert [p for _, p in await whole_tail(log, bank="x")] == [b"payload of r1: a"]
        assert await log.drop_bank(T, B) is True

    async def test_appends_go_on_while_a_bank_is_forked(self, log: Log) -> None:
        await log.append(T, B, [write(f"e{n}", f"f{n % 50}") for n in range(900)])

        async def publish() -> None:
            for n in range(20):
                await log.append(T, B, [write(f"more{n}", f"f{n}"), write(f"new{n}", f"n{n}")])

        made = await asyncio.gather(
            publish(), log.fork(T, B, "fork", 850), log.fork(T, B, "fork", 850)
        )
        assert sorted(made[1:]) == [False, True]
        assert await whole_tail(log, bank="fork") == (await whole_tail(log))[:850]
        assert await appended(log, forget("x", "n1"), bank="fork") == [(0, False, "UNKNOWN_FACT")]


@pytest.mark.asyncio
class TestErase:
    """What was erased is given out no more, in any bank of the family."""

    async def test_erasing_acts_on_the_whole_family(self, log: Log) -> None:
        await log.append(T, B, ITEMS)
        await log.fork(T, B, "early", 1)
        await log.fork(T, B, "late", 6)
        await log.append(T, "late", [write("l1", "f", "late's"), forget("l2", "g")])
        await log.append(T, "early", [write("x-g", "g", "a name that the erase will want")])
        assert await erased(log, erase("x-f", "f"), erase("x-g", "g"), bank="late") == [
            (9, False, None),
            (10, False, None),
        ]
        assert await log.erased(T, B) == await log.erased(T, "early") == {"f", "g"}
        added = {
            bank: [
                (e.version, e.event_id, e.fact_id, e.previous, e.payload_sha256)
                for e, _ in await whole_tail(log, bank=bank)
                if e.kind == Kind.ERASE
            ]
            for bank in ("late", "early", B)
        }
        assert added == {
            "late": [(9, "x-f", "f", 7, ""), (10, "x-g", "g", 8, "")],
            "early": [(3, "x-f", "f", 1, ""), (4, "x-g@early", "g", 2, "")],
            B: [(7, "x-f", "f", 3, ""), (8, "x-g", "g", 6, "")],
        }
        for bank in ("late", "early", B):
            entries = await whole_tail(log, 3, bank=bank)
            check_chain(entries)
            assert (await log.tail(T, bank, 0, 1)).erase_count == 2
            assert (await log.head(T, bank))[2] == 2
            for event, payload in entries:
                kept = event.kind == Kind.WRITE and event.fact_id == "h"
                assert (payload is not None) == kept
            with pytest.raises(DataLoss, match="version 1: the fact was erased") as caught:
                await log.payloads(T, bank, [1])
            assert caught.value.reason == "PAYLOAD_ERASED"
        assert await log.payloads(T, "late", [5]) == [b"payload of e5: a"]

    async def test_a_bank_without_the_fact_gets_no_event(self, log: Log) -> None:
        await log.append(T, B, [write("e1", "f"), write("e2", "g")])
        await log.fork(T, B, "fork", 1)
        assert await erased(log, erase("x", "g")) == [(3, False, None)]
        assert await log.head(T, "fork") == (1, (await log.events(T, B, 0, 1))[0].chain, 1)
        assert await erased(log, erase("y", "never"), erase("z", "g"), bank="fork") == [
            (0, False, "UNKNOWN_FACT"),
            (0, False, "ERASED"),
        ]
        assert await appended(log, write("e3", "g"), bank="fork") == [(0, False, "ERASED")]

    async def test_erasing_is_idempotent_and_retires_the_id(self, log: Log) -> None:
        await log.append(T, B, [write("e1", "f"), forget("e2", "f"), write("e3", "g")])
        assert await erased(
            log,
            erase("x", "f"),
            erase("x", "f"),
            erase("y", "f"),
            erase("x", "g"),
            write("w", "g"),
        ) == [
            (4, False, None),
            (4, True, None),
            (0, False, "ERASED"),
            (0, False, "CONFLICT"),
            (0, False, "INVALID_ARGUMENT"),
        ]
        assert await appended(
            log, write("e4", "f"), forget("e5", "f", expected=7), write("x", "f")
        ) == [(0, False, "ERASED"), (0, False, "ERASED"), (0, False, "CONFLICT")]
        assert await erased(log, erase("x", "f")) == [(4, True, None)]
        assert (await log.head(T, B))[0] == 4

    async def test_an_event_id_that_was_used_otherwise_lets_nothing_be_erased(
        self, log: Log
    ) -> None:
        """Whether the other request was a write, of a fact erased since too, or an erasure."""
        await log.append(T, B, [write("e1", "f"), write("e2", "g"), write("e3", "h")])
        await log.erase(T, B, [erase("x", "f")])
        await log.remove_payloads(T, B, ["f"])
        head = await log.head(T, B)
        for used in ("e1", "e3", "x"):
            for items in ([erase("n", "g"), erase(used, "h")], [erase(used, "h"), erase("n", "g")]):
                found = await erased(log, *items, erase("x", "f"))
                assert found == [(0, False, "CONFLICT")] * 2 + [(4, True, None)]
        assert await log.head(T, B) == head and await log.erased(T, B) == {"f"}
        assert await erased(log, erase("n", "g"), erase("m", "h")) == [
            (5, False, None),
            (6, False, None),
        ]

    async def test_erasing_many_facts_from_many_forks_is_the_same_in_steps(
        self, log: Log, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No script call does more than its share, and a refused one does nothing."""
        monkeypatch.setattr("services.redis_appends.MAX_BATCH", 8)
        calls: list[str] = []
        run = getattr(log, "run", None)

        async def counted(script, keys, args=()):
            calls.append(script.name)
            return await run(script, keys, args)

        if run is not None:
            monkeypatch.setattr(log, "run", counted)
        await log.append(T, B, [write(f"e{n}", f"f{n}") for n in range(7)])
        for n in range(3):
            await log.fork(T, B, f"fork{n}", 7)
        head = await log.head(T, B)
        items = [erase(f"x{n}", f"f{n}") for n in range(7)]
        assert await erased(log, *items[:6], erase("e1", "f6")) == [(0, False, "CONFLICT")] * 7
        assert await log.head(T, B) == head and not await log.erased(T, B)
        calls.clear()
        assert await erased(log, *items) == [(8 + n, False, None) for n in range(7)]
        assert run is None or calls == ["erase_check", *["erase"] * 4]
        assert await log.erased(T, B) == {f"f{n}" for n in range(7)}
        for bank in await log.family(T, B):
            check_chain(await whole_tail(log, bank=bank))
            assert (await log.head(T, bank))[0] == 14
        assert await erased(log, *items) == [(8 + n, True, None) for n in range(7)]

    async def test_a_full_bank_can_be_erased_from(self, log: Log) -> None:
        log._max_events = 2
        await log.append(T, B, [write("e1", "f"), write("e2", "g")])
        assert await appended(log, write("e3", "f")) == [(0, False, "BANK_FULL")]
        assert await erased(log, erase("x", "f")) == [(3, False, None)]

    async def test_payloads_go_from_every_bank_and_stay_gone(self, log: Log) -> None:
        await log.append(T, B, ITEMS)
        await log.fork(T, B, "early", 2)
        await log.fork(T, B, "late", 6)
        await log.append(T, "early", [write("a1", "f", "early's"), write("a2", "f", "again")])
        await log.append(T, "late", [forget("b1", "f"), write("b2", "f", "late's")])
        for facts in (["f"], ["never"], ["f", "never"]):
            with pytest.raises(FailedPrecondition, match="not erased") as caught:
                await log.remove_payloads(T, B, facts)
            assert caught.value.reason == "NOT_ERASED"
        await log.erase(T, B, [erase("x", "f")])
        before = {bank: await whole_tail(log, bank=bank) for bank in (B, "early", "late")}
        assert (await log.search(T, B, [b"early's", b"late's"])).found == 2
        assert await log.remove_payloads(T, "late", ["f"]) == 5
        assert await log.remove_payloads(T, B, ["f"]) == 0
        assert await log.remove_payloads(T, B, []) == 0
        for bank, entries in before.items():
            assert await whole_tail(log, 4, bank=bank) == entries
        # Its request can no longer be compared: the duplicate returns its version unchecked.
        assert await appended(log, write("e3", "f", "another answer")) == [(3, True, None)]
        found = await log.search(T, "early", [b"early's", b"late's", b"payload of e3"])
        assert (found.keys > 0, found.found) == (True, 0)
        assert (await log.search(T, "early", [b"payload of e2"])).found == 1
        with pytest.raises(InvalidArgument):
            await log.search(T, B, [b""])

    async def test_a_fork_made_after_an_erase_has_nothing_of_it(self, log: Log) -> None:
        await log.append(T, B, ITEMS)
        await log.erase(T, B, [erase("x", "f")])
        await log.fork(T, B, "before", 3)
        await log.fork(T, B, "after", 7)
        for bank in ("before", "after"):
            for event, payload in await whole_tail(log, bank=bank):
                assert (payload is None) == (event.fact_id == "f" or event.kind != Kind.WRITE)
            assert (await log.head(T, bank))[2] == 1
            assert await appended(log, write("w", "f"), bank=bank) == [(0, False, "ERASED")]
        assert await log.remove_payloads(T, "before", ["f"]) == 2
        assert [e.version for e in await log.fact_events(T, "after", "f")] == [7, 3, 1]

    async def test_erasing_beside_appends_and_forks(self, log: Log) -> None:
        await log.append(T, B, [write(f"e{n}", f"f{n}") for n in range(30)])

        async def fork(n: int) -> None:
            await log.fork(T, B, f"fork{n}", 30)

        async def erase_one(n: int) -> None:
            assert (await erased(log, erase(f"x{n}", f"f{n}")))[0][2] is None

        jobs = [job for n in range(8) for job in (fork(n), erase_one(n))]
        await asyncio.gather(*jobs, log.append(T, B, [write("more", "f29")]))
        gone = {f"f{n}" for n in range(8)}
        assert await log.erased(T, B) == gone
        assert len(await log.family(T, B)) == 9
        assert await log.remove_payloads(T, B, sorted(gone)) == 8
        for bank in await log.family(T, B):
            entries = await whole_tail(log, bank=bank)
            check_chain(entries)
            without = {e.fact_id for e, p in entries if e.kind == Kind.WRITE and p is None}
            assert without == gone
