"""Random histories: the durable log answers each as its simple twin does."""

from __future__ import annotations

import asyncio
import dataclasses

import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from larimar.errors import LarimarError
from larimar.memory import BankConfig, Event, Kind
from services.log import Append, Appended, Log, MemoryLog, Origin, Page, Stored
from services.redis_log import RedisLog
from services.store import EmbeddedStore
from tests.logs import (
    CONFIG,
    OTHER_CONFIG,
    PATIENCE_S,
    B,
    T,
    erase,
    forget,
    outcome,
    whole_archive,
    whole_tail,
    write,
)

pytest_plugins = ("tests.log_stores",)

BANKS = st.sampled_from([B, B, "b1", "b1", "b2", "b3"])
FACTS = st.sampled_from(["f1", "f2", "f3"])
EVENTS = st.sampled_from([f"e{n}" for n in range(12)])
PARTS = st.sampled_from(["memory", "scope"])
EXPECTED = st.one_of(st.none(), st.none(), st.integers(0, 9))
ITEMS = st.one_of(
    st.builds(write, EVENTS, FACTS, st.sampled_from(["a", "b"]), expected=EXPECTED),
    st.builds(forget, EVENTS, FACTS, expected=EXPECTED),
)
ERASES = st.builds(erase, EVENTS, FACTS, expected=EXPECTED)


def plain(answer):
    """An answer without what is each store's own: times, salts and what is made from them."""
    match answer:
        case Appended():
            return outcome(answer)
        case Page():
            return plain(answer.entries), answer.erase_count
        case Event():
            digests = {
                "time_ms": 0,
                "chain": "",
                "payload_sha256": str(bool(answer.payload_sha256)),
            }
            return dataclasses.replace(answer, **digests)
        case Stored():
            return plain(answer.event), answer.salted and answer.salted[16:]
        case Origin():
            return answer.bank, answer.version
        case tuple() | list():
            return [plain(part) for part in answer]
        case dict():
            return {key: plain(value) for key, value in answer.items()}
        case _:
            return answer


class LogsSideBySide(RuleBasedStateMachine):
    """Everything observable is equal after every step."""

    url: str

    @initialize(
        items=st.lists(ITEMS, max_size=9),
        versions=st.tuples(st.integers(0, 6), st.integers(0, 6)),
        more=st.lists(ITEMS, max_size=5),
    )
    def open(self, items: list[Append], versions: tuple[int, int], more: list[Append]) -> None:
        self.loop = asyncio.new_event_loop()
        self.logs: list[Log] = [MemoryLog(), RedisLog(self.url, part_bytes=2, timeout_s=PATIENCE_S)]
        assert self.both(lambda log: log.make_bank(T, B, CONFIG)) == [CONFIG, True]
        self.both(lambda log: log.append(T, B, items))
        self.both(lambda log: log.fork(T, B, "b1", versions[0]))
        self.both(lambda log: log.append(T, "b1", more))
        self.both(lambda log: log.fork(T, "b1", "b2", versions[1]))

    def both(self, call):
        """The answer that both give, or the kind of error that both raise."""
        answers = []
        for log in self.logs:
            try:
                answers.append(plain(self.loop.run_until_complete(call(log))))
            except LarimarError as error:
                answers.append((type(error), error.reason, error.message))
        assert answers[0] == answers[1]
        return answers[0]

    @rule(bank=BANKS, items=st.lists(ITEMS, max_size=6))
    def append(self, bank: str, items: list[Append]) -> None:
        self.both(lambda log: log.append(T, bank, items))

    @rule(bank=BANKS, items=st.lists(ITEMS, min_size=1, max_size=6))
    def append_at_once(self, bank: str, items: list[Append]) -> None:
        async def each(log: Log) -> list:
            calls = (log.append(T, bank, [item]) for item in items)
            return list(await asyncio.gather(*calls))

        self.both(each)

    @rule(bank=BANKS, items=st.lists(ERASES, max_size=3))
    def erase(self, bank: str, items: list[Append]) -> None:
        self.both(lambda log: log.erase(T, bank, items))

    @rule(bank=BANKS, facts=st.lists(FACTS, max_size=2, unique=True))
    def remove_payloads(self, bank: str, facts: list[str]) -> None:
        self.both(lambda log: log.remove_payloads(T, bank, facts))

    @rule(source=BANKS, new=BANKS, version=st.integers(0, 10))
    def fork(self, source: str, new: str, version: int) -> None:
        self.both(lambda log: log.fork(T, source, new, version))

    @rule(bank=BANKS, config=st.sampled_from([CONFIG, CONFIG, OTHER_CONFIG]))
    def make(self, bank: str, config: BankConfig) -> None:
        self.both(lambda log: log.make_bank(T, bank, config))

    @rule(bank=BANKS)
    def drop(self, bank: str) -> None:
        self.both(lambda log: log.drop_bank(T, bank))

    @rule(source=BANKS, new=BANKS, end=st.integers(0, 9), page=st.integers(1, 5))
    def load(self, source: str, new: str, end: int, page: int) -> None:
        async def copy(log: Log) -> None:
            archive = await whole_archive(log, source)
            for start in range(0, min(end, len(archive)), page):
                await log.load(T, new, archive[start : min(start + page, end)])

        self.both(copy)

    @rule(source=BANKS, new=BANKS)
    def restore(self, source: str, new: str) -> None:
        async def copy(log: Log) -> None:
            archive = await whole_archive(log, source)
            await log.load(T, new, archive)
            gone = sorted(await log.erased(T, source))
            await log.publish(T, new, await log.bank_config(T, source), gone, len(archive))

        self.both(copy)

    @rule(
        bank=BANKS,
        part=PARTS,
        version=st.integers(0, 9),
        blob=st.binary(max_size=7),
        erased=st.integers(0, 2),
    )
    def checkpoint(self, bank: str, part: str, version: int, blob: bytes, erased: int) -> None:
        meta = {"n": str(len(blob))}
        self.both(lambda log: log.put_checkpoint(T, bank, part, version, blob, meta, erased))
        self.both(lambda log: log.get_checkpoint(T, bank, part, version))

    @rule(bank=BANKS, before=st.integers(0, 10))
    def remove_checkpoints(self, bank: str, before: int) -> None:
        self.both(lambda log: log.remove_checkpoints(T, bank, before))

    @rule(bank=BANKS, name=st.sampled_from(["r1", "r2"]), text=st.text("ab"), new=st.booleans())
    def record(self, bank: str, name: str, text: str, new: bool) -> None:
        self.both(lambda log: log.put_record(T, bank, name, text, new))

    @rule(bank=BANKS, after=st.integers(0, 12), limit=st.integers(1, 6))
    def read(self, bank: str, after: int, limit: int) -> None:
        self.both(lambda log: log.tail(T, bank, after, limit))
        self.both(lambda log: log.events(T, bank, after, limit))

    @invariant()
    def equal(self) -> None:
        async def summary(log: Log) -> list:
            seen = []
            for bank in await log.banks(T):
                version, _, erase_count = await log.head(T, bank)
                entries = await whole_tail(log, 4, bank=bank)
                written = [event.version for event, payload in entries if payload is not None]
                assert version == len(entries)
                seen += [
                    (bank, version, erase_count, await log.bank_config(T, bank)),
                    (entries, await log.payloads(T, bank, written)),
                    [await log.fact_events(T, bank, fact) for fact in ("f1", "f2", "f3")],
                    (await log.family(T, bank), sorted(await log.erased(T, bank))),
                    [await log.checkpoints(T, bank, part) for part in ("memory", "scope")],
                    [await log.record(T, bank, name) for name in ("r1", "r2")],
                    await whole_archive(log, bank),
                ]
                assert not written or entries[written[0] - 1][0].kind == Kind.WRITE
            return seen

        if hasattr(self, "logs"):
            self.both(summary)

    def teardown(self) -> None:
        if not hasattr(self, "logs"):
            return
        for log in self.logs:
            for _ in range(4):
                for bank in (B, "b1", "b2", "b3"):
                    try:
                        self.loop.run_until_complete(log.drop_bank(T, bank))
                    except LarimarError as error:
                        assert error.reason == "HAS_FORKS"
            assert self.loop.run_until_complete(log.banks(T)) == []
            self.loop.run_until_complete(log.close())
        self.loop.close()
        with redis.Redis.from_url(self.url) as raw:
            assert raw.keys() == []


def test_the_logs_agree_on_any_history(store: EmbeddedStore, raw: redis.Redis) -> None:
    LogsSideBySide.url = store.url
    bounded = settings(
        max_examples=30,
        stateful_step_count=18,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    run_state_machine_as_test(LogsSideBySide, settings=bounded)
    assert raw.keys() == []
