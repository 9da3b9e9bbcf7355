"""The inbox: one contract for every store, and the consumer on a real one.

Needs the embedded store; the gateways behind the consumer are the real calls over a small log of
their own, or the whole pipeline.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator

import pytest
import redis

from larimar.defaults import default_fact_id
from larimar.edit_events import MAX_EVENT_BYTES
from larimar.errors import (
    Conflict,
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    LarimarError,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from larimar.v1 import common_pb2, memory_pb2
from services.gateway import consumer as consumer_module
from services.gateway.admission import RATE_LIMITED
from services.gateway.consumer import InboxConsumer
from services.inbox import Death, Inbox, MemoryInbox, Settled
from services.redis_inbox import RedisInbox
from services.store import EmbeddedStore
from tests.events import event_json, eventually

T = "acme"
LEASE = f"{{{T}}}:inbox:lease"


@pytest.fixture(scope="module")
def store() -> Iterator[EmbeddedStore]:
    folder = tempfile.mkdtemp(prefix="test-inbox-")
    with EmbeddedStore(folder) as running:
        yield running
    shutil.rmtree(folder)


@pytest.fixture
def raw(store: EmbeddedStore) -> Iterator[redis.Redis]:
    """A client that does what no service may; begins with an empty store."""
    with redis.Redis.from_url(store.url) as client:
        client.flushall()
        yield client


@pytest.fixture
async def durable(store: EmbeddedStore, raw: redis.Redis) -> AsyncIterator[RedisInbox]:
    inbox = RedisInbox(store.url)
    yield inbox
    await inbox.close()


@pytest.fixture(params=["memory", "redis"])
async def inbox(request, store: EmbeddedStore, raw: redis.Redis) -> AsyncIterator[Inbox]:
    made: Inbox = MemoryInbox() if request.param == "memory" else RedisInbox(store.url)
    yield made
    await made.close()


async def fill(inbox: Inbox, count: int, **more) -> list[str]:
    return [
        await inbox.append(T, event_json(f"e{number}", prompt=f"p{number}", **more))
        for number in range(count)
    ]


def ids(entries) -> list[str]:
    return [entry.entry_id for entry in entries]


async def test_entries_are_taken_once_in_order(inbox: Inbox) -> None:
    added = await fill(inbox, 5)
    first, second = await inbox.take(T, 3, 1), await inbox.take(T, 3, 1)
    assert ids(first) + ids(second) == added
    assert first[0].event == event_json("e0", prompt="p0")
    assert await inbox.take(T, 3, 1) == [] and await inbox.length(T) == 5


async def test_what_was_taken_and_not_settled_is_found_again_with_its_tries(inbox: Inbox) -> None:
    added = await fill(inbox, 4)
    await inbox.take(T, 3, 1)
    await inbox.settle(T, [Settled(added[1])])
    found = await inbox.taken(T, "", 1) + await inbox.taken(T, added[0], 9)
    assert [(one.entry_id, one.tries) for one in found] == [(added[0], 1), (added[2], 1)]
    assert [one.tries for one in await inbox.taken(T, "", 9)] == [2, 2]
    assert ids(await inbox.take(T, 9, 1)) == added[3:]


async def test_what_is_settled_leaves_nothing_and_twice_is_once(inbox: Inbox) -> None:
    added = await fill(inbox, 2)
    await inbox.take(T, 9, 1)
    death = Death(event_json("e1", prompt="p1"), "CONFLICT", "taken", 3)
    outcomes = [Settled(added[0]), Settled(added[1], death)]
    assert await inbox.settle(T, outcomes) == 2
    assert await inbox.settle(T, outcomes) == 0
    assert await inbox.length(T) == 0
    (letter,), total = await inbox.letters(T, "", 9)
    assert total == 1 and letter.entry_id == added[1] and letter.time_ms > 0
    assert (letter.event, letter.reason, letter.message, letter.tries) == (
        event_json("e1", prompt="p1"), "CONFLICT", "taken", 3,
    )  # fmt: skip


async def dead(inbox: Inbox, count: int) -> list[str]:
    added = await fill(inbox, count)
    entries = await inbox.take(T, count, 1)
    await inbox.settle(T, [Settled(e.entry_id, Death(e.event, "R", "m", 1)) for e in entries])
    letters, total = await inbox.letters(T, "", count)
    assert total == count and [one.entry_id for one in letters] == added
    return [one.letter_id for one in letters]


async def test_letters_come_in_pages(inbox: Inbox) -> None:
    letters = await dead(inbox, 5)
    page, total = await inbox.letters(T, letters[1], 2)
    assert [one.letter_id for one in page] == letters[2:4] and total == 5


async def test_requeued_letters_are_entries_again_and_not_letters(inbox: Inbox) -> None:
    letters = await dead(inbox, 3)
    assert await inbox.requeue(T, [letters[2], letters[0], letters[0]]) == 2
    assert await inbox.requeue(T, [letters[2]]) == 0
    events = [entry.event for entry in await inbox.take(T, 9, 1)]
    assert events == [event_json("e2", prompt="p2"), event_json("e0", prompt="p0")]
    assert [one.letter_id for one in (await inbox.letters(T, "", 9))[0]] == [letters[1]]
    assert await inbox.drop(T, [letters[1], letters[0]]) == 1
    assert (await inbox.letters(T, "", 9))[1] == 0


@pytest.mark.parametrize(
    "wrong",
    ["1", "1-", "-1", "x-1", "1-1-1", "١-1", "1-١", "1-1\n", f"{2**64 - 1}-0", f"1-{2**64}"],
)
async def test_an_id_that_no_letter_can_have_is_refused(inbox: Inbox, wrong: str) -> None:
    letters = await dead(inbox, 1)
    for call in (
        inbox.letters(T, wrong, 9),
        inbox.requeue(T, [letters[0], wrong]),
        inbox.drop(T, [letters[0], wrong]),
    ):
        with pytest.raises(InvalidArgument) as caught:
            await call
        assert caught.value.reason == "BAD_ID"
    assert (await inbox.length(T), (await inbox.letters(T, "", 9))[1]) == (0, 1)
    largest = f"{2**64 - 2}-{2**64 - 2}"
    assert await inbox.letters(T, largest, 9) == ([], 1) and await inbox.drop(T, [largest]) == 0


async def test_a_lease_has_one_holder_until_it_ends(inbox: Inbox) -> None:
    long_ms = 600_000
    assert await inbox.hold(T, "a", long_ms) and await inbox.hold(T, "a", long_ms)
    assert not await inbox.hold(T, "b", long_ms)
    await inbox.release(T, "b")
    assert not await inbox.hold(T, "b", long_ms)
    await inbox.release(T, "a")
    assert await inbox.hold(T, "b", 100)
    await asyncio.sleep(0.2)
    assert await inbox.hold(T, "a", long_ms), "b was silent for longer than its lease"
    assert await inbox.hold("other", "b", long_ms), "another tenant's lease is another"


async def test_erased_facts_leave_the_inbox_and_the_dead(inbox: Inbox) -> None:
    by_prompt = event_json("1", prompt="the secret")
    by_id = event_json("2", prompt="x", fact_id="retired")
    forget = event_json("3", kind="forget", fact_id="retired")
    faulty = event_json("4", prompt="the secret", extra="not known")
    broken = b'{"id": "5", "data": {"prompt": "the sec'
    others = [
        event_json("6", prompt="another"),
        event_json("7", prompt="the secret", bank="elsewhere"),
        event_json("8", prompt="the secret", fact_id="its own"),
    ]
    gone = [by_prompt, by_id, forget, faulty, broken]
    for event in (*gone, *others):
        await inbox.append(T, event)
    entries = await inbox.take(T, 99, 1)
    await inbox.settle(T, [Settled(e.entry_id, Death(e.event, "R", "m", 1)) for e in entries])
    for event in (*gone, *others):
        await inbox.append(T, event)
    taken = await inbox.take(T, 3, 1)
    facts = [default_fact_id("the secret"), "retired"]
    assert await inbox.remove_facts(T, "default", facts) == 2 * len(gone)
    assert await inbox.settle(T, [Settled(one.entry_id) for one in taken]) == 0
    assert [one.event for one in await inbox.take(T, 99, 1)] == others
    assert [one.event for one in (await inbox.letters(T, "", 99))[0]] == others
    assert await inbox.remove_facts(T, "default", facts) == 0


async def test_a_name_that_could_stand_for_another_key_is_refused(durable: RedisInbox) -> None:
    for tenant in ("a}:inbox{b", "", "a:b"):
        with pytest.raises(InvalidArgument):
            await durable.append(tenant, b"{}")
    with pytest.raises(InvalidArgument):
        await durable.drop(T, ["+"])


async def test_a_store_that_is_away_is_unavailable(tmp_path) -> None:
    inbox = RedisInbox(f"unix://{tmp_path}/none.sock")
    with pytest.raises(Unavailable) as caught:
        await inbox.take(T, 1, 1)
    assert caught.value.reason == "STORE_DOWN"
    await inbox.close()


class Bank:
    """What the consumer applies to: the gateway's contract over a list, with faults to order."""

    def __init__(self) -> None:
        self.applied: list[tuple[str, str]] = []
        self.faults: dict[str, Exception] = {}
        self.down: set[str] = set()
        self.gate: asyncio.Event | None = None
        self.erased: set[tuple[str, str]] = set()
        self.untold: list[Exception] = []

    async def is_erased(self, bank, fact_id, context):
        if self.untold:
            raise self.untold.pop()
        return (bank, fact_id) in self.erased

    async def write_prepared(self, bank, items, context, admitted=False, nameless=()):
        if bank in self.down:
            raise Unavailable("the service is away", "SERVICE_DOWN")
        faults = [self.faults.get(item.event_id) for item in items]
        for fault in faults:
            if isinstance(fault, InvalidArgument) or (
                fault is not None and not isinstance(fault, LarimarError)
            ):
                raise fault  # what concerns the whole append
        results = []
        for item, fault in zip(items, faults, strict=True):
            if isinstance(fault, LarimarError):
                status = common_pb2.Status(
                    code=fault.code, reason=fault.reason, message=fault.message
                )
                results.append(memory_pb2.AppendResult(status=status))
                continue
            known = (bank, item.event_id) in self.applied
            if not known:
                self.applied.append((bank, item.event_id))
            results.append(memory_pb2.AppendResult(version=len(self.applied), duplicate=known))
        if self.gate is not None:
            await self.gate.wait()
        return results

    def of(self, bank: str = "default") -> list[str]:
        return [event_id for where, event_id in self.applied if where == bank]


@contextlib.asynccontextmanager
async def consuming(bank, inbox, **more) -> AsyncIterator[asyncio.Task]:
    task = asyncio.create_task(InboxConsumer(bank, inbox, T, **more).run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def empty(inbox: Inbox) -> bool:
    return await length_is(inbox, 0)


async def length_is(inbox: Inbox, length: int) -> bool:
    return await inbox.length(T) == length


@pytest.fixture
def quick(monkeypatch) -> None:
    monkeypatch.setattr(consumer_module, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(consumer_module, "LONGEST_PAUSE_S", 0.05)
    monkeypatch.setattr(consumer_module, "RETRY_S", 0.05)


async def test_a_hundred_events_are_applied_in_order_and_gone(durable, raw) -> None:
    await fill(durable, 300)
    bank = Bank()
    async with consuming(bank, durable):
        await eventually(lambda: empty(durable))
    assert bank.of() == [f"e{number}" for number in range(300)]
    assert raw.xlen(f"{{{T}}}:inbox") == raw.xlen(f"{{{T}}}:dead") == 0
    assert raw.get(LEASE) is None, "the lease was given back"


@pytest.mark.parametrize(
    "error",
    [
        Conflict("taken", "CONFLICT"),
        NotFound("no fact", "UNKNOWN_FACT"),
        FailedPrecondition("already forgotten", "ALREADY_FORGOTTEN"),
    ],
    ids=lambda error: error.reason,
)
async def test_a_refusal_is_dead_at_once_and_holds_nobody_up(durable, quick, error) -> None:
    await fill(durable, 5)
    bank = Bank()
    bank.faults["e2"] = error
    async with consuming(bank, durable):
        await eventually(lambda: empty(durable))
    assert bank.of() == ["e0", "e1", "e3", "e4"]
    (letter,), _ = await durable.letters(T, "", 9)
    assert (letter.reason, letter.message, letter.tries) == (error.reason, error.message, 1)
    assert letter.event == event_json("e2", prompt="p2")


async def test_poison_of_every_kind_is_dead_with_a_reason(durable, raw, quick) -> None:
    poison = [
        b"\xff\xfe",
        b"not json",
        b"[]",
        event_json("a", prompt="p", extra="unknown"),
        event_json("b", type="com.example.other"),
        event_json("c", prompt="x" * (MAX_EVENT_BYTES + 1)),
        event_json("d", prompt="p", specversion="0.3"),
        event_json("e", prompt="p" * 20_000),
    ]
    for event in poison:
        await durable.append(T, event)
    raw.xadd(f"{{{T}}}:inbox", {"other": "field"})
    bank = Bank()
    await durable.append(T, event_json("good", prompt="p"))
    async with consuming(bank, durable):
        await eventually(lambda: empty(durable))
    assert bank.of() == ["good"]
    letters, total = await durable.letters(T, "", 99)
    assert total == len(poison) + 1
    assert {one.reason for one in letters} == {"BAD_EVENT"}
    assert all(len(one.event) <= MAX_EVENT_BYTES for one in letters)
    assert "limit is 65536" in letters[5].message and "field 'event'" in letters[8].message


async def test_a_text_that_the_encoder_refuses_is_dead_alone(durable, quick) -> None:
    await fill(durable, 7)
    bank = Bank()
    bank.faults["e3"] = InvalidArgument("too many tokens", "TEXT_TOO_LONG")
    async with consuming(bank, durable):
        await eventually(lambda: empty(durable))
    assert bank.of() == ["e0", "e1", "e2", "e4", "e5", "e6"]
    (letter,), _ = await durable.letters(T, "", 9)
    assert letter.reason == "TEXT_TOO_LONG"


async def test_an_unexpected_failure_is_found_and_dies_after_its_tries(durable, quick) -> None:
    await fill(durable, 4)
    bank = Bank()
    bank.faults["e1"] = RuntimeError("a bug that names p1")
    async with consuming(bank, durable, max_tries=3):
        await eventually(lambda: empty(durable))
    assert bank.of() == ["e0", "e2", "e3"]
    (letter,), _ = await durable.letters(T, "", 9)
    assert letter.tries == 3 and "p1" not in letter.message


async def test_a_transient_failure_is_tried_again_and_blocks_only_its_bank(durable, quick) -> None:
    for number in range(6):
        name = "slow" if number % 2 else "default"
        await durable.append(T, event_json(f"e{number}", prompt=f"p{number}", bank=name))
    bank = Bank()
    bank.down.add("slow")
    async with consuming(bank, durable, max_tries=1000):
        await eventually(lambda: bank.of() == ["e0", "e2", "e4"])
        await durable.append(T, event_json("e6", prompt="p6"))
        await eventually(lambda: bank.of() == ["e0", "e2", "e4", "e6"])
        await eventually(lambda: length_is(durable, 3))  # an entry goes once its write came back
        assert bank.of("slow") == []
        bank.down.clear()
        await eventually(lambda: empty(durable))
    assert bank.of("slow") == ["e1", "e3", "e5"]
    assert (await durable.letters(T, "", 9))[1] == 0


class Batches(Bank):
    """Notes the appends, and raises for those that hold an event of which nothing can be made."""

    def __init__(self, poison: str, error: LarimarError, times: int = 1000) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self._poison, self._error, self._times = poison, error, times

    async def write_prepared(self, bank, items, *rest, **more):
        self.sizes.append(len(items))
        if self._times and self._poison in [item.event_id for item in items]:
            self._times -= 1
            raise self._error
        return await super().write_prepared(bank, items, *rest, **more)


async def test_an_event_that_fails_its_batch_takes_no_other_with_it(durable, quick) -> None:
    await fill(durable, 12)
    bank = Batches("e9", LarimarError("a fault that the event brings about"))
    async with consuming(bank, durable, max_tries=3):
        await eventually(lambda: empty(durable))
    assert bank.of() == [f"e{number}" for number in range(12) if number != 9]
    (letter,), _ = await durable.letters(T, "", 9)
    assert (letter.tries, letter.event) == (3, event_json("e9", prompt="p9"))
    assert bank.sizes == [12, 1, 2, 4, 5, 1, 2, 1, 2, 1, 1, 2]


async def test_a_rate_that_is_met_makes_no_batch_smaller(durable, quick) -> None:
    await fill(durable, 12)
    bank = Batches("e9", ResourceExhausted("too fast", RATE_LIMITED), times=2)
    async with consuming(bank, durable, max_tries=1):
        await eventually(lambda: empty(durable))
    assert bank.sizes == [12, 12, 12]


async def test_a_bank_that_is_slow_holds_no_other_up(durable, quick) -> None:
    class Slow(Bank):
        async def write_prepared(self, bank, items, *rest, **more):
            if bank == "slow":
                await asyncio.sleep(3600)
            return await super().write_prepared(bank, items, *rest, **more)

    bank = Slow()
    await durable.append(T, event_json("s", prompt="p", bank="slow"))
    async with consuming(bank, durable):
        for number in range(3):
            await durable.append(T, event_json(f"e{number}", prompt="p"))
            await eventually(lambda n=number: len(bank.of()) == n + 1)
        await eventually(lambda: length_is(durable, 1))
    assert bank.of("slow") == []


async def test_events_beyond_what_is_held_whole_are_read_again(durable, quick, monkeypatch) -> None:
    monkeypatch.setattr(consumer_module, "MAX_BODIES", 3)
    await fill(durable, 200)
    bank = Bank()
    bank.down.add("default")
    async with consuming(bank, durable, max_tries=1000):
        await asyncio.sleep(0.5)
        bank.down.clear()
        await eventually(lambda: empty(durable))
    assert bank.of() == [f"e{number}" for number in range(200)]


async def test_tries_end_and_what_follows_goes_on(durable, quick) -> None:
    await fill(durable, 3)
    bank = Bank()
    bank.faults["e0"] = ResourceExhausted("the bank is full", "BANK_FULL")
    async with consuming(bank, durable, max_tries=4):
        await eventually(lambda: empty(durable))
    (letter,), _ = await durable.letters(T, "", 9)
    assert (letter.reason, letter.tries) == ("BANK_FULL", 4)
    assert sorted(bank.of()) == ["e1", "e2"]


async def test_an_event_of_an_erased_fact_leaves_no_text(durable, raw, quick) -> None:
    await durable.append(T, event_json("e", prompt="the secret"))
    bank = Bank()
    bank.faults["e"] = FailedPrecondition("the fact was erased", "ERASED")
    async with consuming(bank, durable):
        await eventually(lambda: empty(durable))
    (letter,), _ = await durable.letters(T, "", 9)
    assert (letter.reason, letter.event) == ("ERASED", b"")
    assert await durable.requeue(T, [letter.letter_id]) == 0, "there is nothing to requeue"


async def test_an_event_of_an_erased_fact_that_is_refused_for_another_reason_leaves_none(
    durable, quick
) -> None:
    bank = Bank()
    bank.faults = {
        "conflict": Conflict("the event id is taken"),
        "long": InvalidArgument("too many tokens", "TEXT_TOO_LONG"),
        "full": ResourceExhausted("the bank is full", "BANK_FULL"),
    }
    bank.erased = {("default", "gone"), ("default", default_fact_id("the secret"))}
    for fact_id in ("gone", "other"):
        for name in (*bank.faults, "bad"):
            more = {"extra": 1} if name == "bad" else {}
            await durable.append(T, event_json(name, prompt="p", fact_id=fact_id, **more))
    await durable.append(T, event_json("of its prompt", prompt="the secret", extra=1))
    await durable.append(T, event_json("elsewhere", bank="b", prompt="p", fact_id="gone", extra=1))
    await durable.append(T, b"unreadable")
    async with consuming(bank, durable, max_tries=2):
        await eventually(lambda: empty(durable))
    letters, total = await durable.letters(T, "", 99)
    assert total == 11
    for letter in letters:
        about = b'"gone"' in letter.event or b"secret" in letter.event
        assert not about or b'"subject": "b"' in letter.event, letter.reason
    assert sum(not letter.event for letter in letters) == 5
    kept = {letter.reason for letter in letters if b'"other"' in letter.event}
    assert kept == {"CONFLICT", "TEXT_TOO_LONG", "BANK_FULL", "BAD_EVENT"}


@pytest.mark.parametrize(
    ("fault", "untold", "kept"),
    [
        (Conflict("taken"), [Unavailable("away", "SERVICE_DOWN")] * 3, True),
        (Conflict("taken"), [NotFound("there is no such bank", "UNKNOWN_BANK")], True),
        (Conflict("taken"), [DataLoss("an entry is not there", "GAP")], False),
        (Conflict("taken"), [RuntimeError("a bug")], False),
        (Unavailable("away", "SERVICE_DOWN"), [Unavailable("away", "SERVICE_DOWN")], True),
    ],
)
async def test_whether_a_letter_keeps_its_text_where_memory_does_not_tell(
    durable, quick, fault, untold, kept
) -> None:
    """One refused for its own sake waits for memory; where that cannot tell it keeps none."""
    await fill(durable, 2)
    bank = Bank()
    bank.faults["e0"], bank.untold = fault, list(untold)
    async with consuming(bank, durable, max_tries=1):
        await eventually(lambda: empty(durable))
    (letter,), _ = await durable.letters(T, "", 9)
    assert bool(letter.event) is kept and not bank.untold
    assert letter.message.startswith(fault.message)
    assert ("text is not kept" in letter.message) is not kept
    assert bank.of() == ["e1"]


async def test_a_consumer_killed_between_append_and_ack_doubles_and_loses_nothing(
    durable, quick
) -> None:
    await fill(durable, 40)
    bank = Bank()
    bank.gate = asyncio.Event()
    async with consuming(bank, durable):
        await eventually(lambda: len(bank.applied) >= 40)
    assert await durable.length(T) == 40, "nothing was settled"
    bank.gate = None
    async with consuming(bank, durable):
        await durable.append(T, event_json("later", prompt="later"))
        await eventually(lambda: empty(durable))
    assert bank.of() == [*(f"e{number}" for number in range(40)), "later"]
    assert (await durable.letters(T, "", 9))[1] == 0


async def test_a_new_holder_first_takes_over_what_the_old_one_left(durable, quick) -> None:
    added = await fill(durable, 5)
    await durable.take(T, 3, 1)  # by a consumer that then died
    bank = Bank()
    async with consuming(bank, durable):
        await eventually(lambda: empty(durable))
    assert bank.of() == [f"e{number}" for number in range(5)] and len(added) == 5


async def test_of_two_consumers_one_works_and_the_other_takes_its_place(
    durable, store, raw, quick
) -> None:
    second_inbox = RedisInbox(store.url)
    one, two = Bank(), Bank()
    async with consuming(one, durable) as first:
        await eventually(lambda: raw.get(LEASE) is not None)
        async with consuming(two, second_inbox):
            await fill(durable, 50)
            await eventually(lambda: empty(durable))
            assert len(one.applied) == 50 and not two.applied
            first.cancel()
            await durable.append(T, event_json("after", prompt="p"))
            await eventually(lambda: empty(durable))
            assert two.of() == ["after"]
    await second_inbox.close()


async def test_a_consumer_that_lost_its_lease_stops_and_none_applies_twice(
    durable, raw, quick
) -> None:
    bank, hold, refused = Bank(), durable.hold, []

    async def noted(*lease) -> bool:
        held = await hold(*lease)
        if not held:
            refused.append(lease)
        return held

    durable.hold = noted
    async with consuming(bank, durable, lease_s=0.6):
        await fill(durable, 1)
        await eventually(lambda: empty(durable))
        raw.set(LEASE, "somebody else")
        await eventually(lambda: len(refused) > 1)  # the second time it works no more
        await fill(durable, 3)
        asked = len(refused)
        await eventually(lambda: len(refused) > asked + 2)
        assert await durable.length(T) == 3, "another holds the lease"
        raw.delete(LEASE)
        await eventually(lambda: empty(durable))
    assert bank.of() == ["e0", "e1", "e2"]


async def test_a_consumer_comes_back_with_its_store(tmp_path_factory, quick) -> None:
    folder = tempfile.mkdtemp(prefix="test-inbox-down-")
    with EmbeddedStore(folder) as own:
        inbox, bank = RedisInbox(own.url, timeout_s=10.0), Bank()
        async with consuming(bank, inbox, lease_s=1.0):
            await inbox.append(T, event_json("e0", prompt="p"))
            await eventually(lambda: bank.of() == ["e0"])
            await asyncio.to_thread(own.stop)
            await asyncio.sleep(0.3)
            await asyncio.to_thread(own.start)
            await inbox.append(T, event_json("e1", prompt="q"))
            await eventually(lambda: bank.of() == ["e0", "e1"])
            await eventually(lambda: empty(inbox))
        await inbox.close()
    shutil.rmtree(folder)


async def test_a_stream_that_was_deleted_is_made_anew(durable, raw, quick) -> None:
    bank = Bank()
    async with consuming(bank, durable):
        await fill(durable, 1)
        await eventually(lambda: empty(durable))
        raw.delete(f"{{{T}}}:inbox")
        await durable.append(T, event_json("next", prompt="p"))
        await eventually(lambda: bank.of() == ["e0", "next"])


def test_a_producer_needs_no_more_than_xadd(store, raw) -> None:
    key = f"{{{T}}}:inbox"
    raw.execute_command(
        "ACL", "SETUSER", "producer", "on", ">pw", "resetkeys", f"~{key}", "nocommands", "+xadd"
    )
    with redis.Redis.from_url(store.url, username="producer", password="pw") as producer:
        producer.execute_command("XADD", key, "*", "event", json.dumps({}))
        for command in (("XRANGE", key, "-", "+"), ("XADD", f"{{{T}}}:dead", "*", "event", "x")):
            with pytest.raises(redis.exceptions.NoPermissionError):
                producer.execute_command(*command)
    raw.execute_command("ACL", "DELUSER", "producer")
