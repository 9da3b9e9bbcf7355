"""What a follower shows beside the newest state: stale, past, forked, erased, and cold ones."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

import larimar.state
from larimar.errors import DataLoss, FailedPrecondition, Unavailable
from larimar.memory import BankState, Kind
from larimar.v1 import common_pb2, memory_pb2
from services import follower as follower_module
from services.follower import Follower
from services.log import Append, MemoryLog
from services.memory import capacity, operations
from services.memory.service import MemoryService
from services.rpc import MAX_MESSAGE_BYTES
from tests import faults
from tests.banks import ADDRESSINGS, config_of, payload_of
from tests.events import eventually
from tests.following import (
    BUDGET,
    CONFIG,
    TENANT,
    NotedLog,
    both,
    checkpoint_counts,
    erase_of,
    filled,
    forget_of,
    frozen,
    state_of,
    write_of,
)


@pytest.fixture
def log() -> NotedLog:
    return NotedLog()


async def view_of(follower: Follower, bank: str = "b", **what) -> tuple[int, bool, set[str]]:
    async with follower.view(TENANT, bank, **what) as view:
        return view.state.version, view.stale, set(view.state.facts)


def everything(state: BankState) -> tuple:
    """What two states of one bank at one version must agree on, however they were folded."""
    arrays, metadata, facts, folded, reads = frozen(state)
    return arrays, metadata, facts, folded, reads


async def test_a_stale_view_is_given_to_who_asks_for_it_with_the_store_down(log) -> None:
    await filled(log)
    follower = both(log)
    version, _, facts = await view_of(follower)
    log.down = True
    assert await view_of(follower, allow_stale=True) == (version, True, facts)
    assert await view_of(follower, allow_stale=True, min_version=version) == (version, True, facts)
    with pytest.raises(Unavailable):
        await view_of(follower)
    with pytest.raises(Unavailable) as caught:  # not: the version is not written
        await view_of(follower, allow_stale=True, min_version=version + 1)
    assert caught.value.reason == "STORE_DOWN"
    with pytest.raises(Unavailable):
        await view_of(both(log), allow_stale=True)
    log.down = False
    await log.append(TENANT, "b", [forget_of("fact 1")])
    assert await view_of(follower, allow_stale=True) == (version + 1, False, facts - {"fact 1"})


async def test_a_stale_view_does_not_hide_damage(log) -> None:
    await filled(log)
    follower = both(log)
    await state_of(follower)
    await log.append(TENANT, "b", [write_of(CONFIG, "new", 1)])
    log._banks[TENANT, "b"].entries[10].salted = b"noise"
    for _ in range(2):
        with pytest.raises(DataLoss):
            await view_of(follower, allow_stale=True)


@pytest.mark.parametrize("addressing", ADDRESSINGS)
@pytest.mark.parametrize("checkpoint", [False, True])
async def test_a_past_version_is_what_was_served_then(log, addressing, checkpoint) -> None:
    config = config_of(addressing)
    await log.make_bank(TENANT, "b", config)
    live, then = both(log), {}
    steps = [write_of(config, f"fact {v % 4}", v) for v in range(8)] + [forget_of("fact 2")]
    for step in steps:
        await log.append(TENANT, "b", [step])
        async with live.state(TENANT, "b") as state:
            then[state.version] = everything(state)
        if checkpoint and state.version in (3, 6):
            await live.save_checkpoint(TENANT, "b")
    for follower in (live, both(log)):
        for version in (*then, *reversed(then)):
            async with follower.view(TENANT, "b", at_version=version) as view:
                assert everything(view.state) == then[version] and not view.stale


async def test_versions_that_are_not_written_cannot_be_viewed(log) -> None:
    await filled(log)
    for version in (11, 1000, -1):
        with pytest.raises(FailedPrecondition) as caught:
            await view_of(both(log), at_version=version)
        assert caught.value.reason == "VERSION_NOT_WRITTEN"
    follower = both(log)
    with pytest.raises(FailedPrecondition):
        await view_of(follower, at_version=11)
    assert not follower._held, "what cannot be viewed leaves nothing behind"


@pytest.mark.parametrize("addressing", ADDRESSINGS)
@pytest.mark.parametrize("removed", [False, True])
async def test_an_erased_fact_is_in_no_past_version_any_more(log, addressing, removed) -> None:
    config = config_of(addressing)
    await filled(log, config=config)
    held, cold = both(log), both(log)
    _, _, facts = await view_of(held, at_version=8)
    assert "fact 3" in facts
    await log.erase(TENANT, "b", [erase_of("fact 3")])
    if removed:
        await log.remove_payloads(TENANT, "b", ["fact 3"])
    for follower in (held, cold):
        assert await view_of(follower, at_version=8) == (8, False, facts - {"fact 3"})
    seen = []
    for follower in (held, cold):
        async with follower.view(TENANT, "b", at_version=8) as view:
            seen.append(everything(view.state))
    assert seen[0] == seen[1]


async def test_a_past_version_held_costs_one_look_and_not_a_fold(log) -> None:
    await filled(log)
    follower = both(log)
    await view_of(follower, at_version=5)
    log.tails.clear()
    await view_of(follower, at_version=5)
    assert log.tails == [5]
    await log.drop_bank(TENANT, "b")
    await log.make_bank(TENANT, "b", CONFIG)
    await log.append(TENANT, "b", [write_of(CONFIG, f"anew {v}", v) for v in range(6)])
    _, _, facts = await view_of(follower, at_version=5)
    assert facts == {f"anew {v}" for v in range(5)}, "another bank under the name"


async def test_no_more_past_states_are_held_than_the_limit(log, monkeypatch) -> None:
    monkeypatch.setattr(follower_module, "MAX_PAST_STATES", 3)
    await filled(log)
    follower = both(log)
    await state_of(follower)
    for version in range(1, 11):
        await view_of(follower, at_version=version)
        assert sum(at > 0 for _, _, at in follower._held) <= 3
    assert {at for _, _, at in follower._held} == {0, 8, 9, 10}
    assert follower.banks_held == 1, "past versions do not drive out what is served"


@pytest.mark.parametrize("refused", [False, True])
async def test_reads_of_the_past_that_fail_hold_no_more_than_the_others(
    log, monkeypatch, refused
) -> None:
    monkeypatch.setattr(follower_module, "MAX_PAST_STATES", 3)
    await filled(log)
    async with both(log).state(TENANT, "b") as state:
        size = state.bytes_held
    follower = both(log, state_budget_bytes=2 * size)
    for version in range(1, 11):
        with pytest.raises(FailedPrecondition if refused else ValueError):
            async with follower.view(
                TENANT, "b", at_version=version, min_version=11 if refused else 0
            ):
                raise ValueError("the caller's own")
        assert len(follower._held) <= 3 and follower.bytes_held <= 2 * size


async def test_past_states_count_against_the_budget(log) -> None:
    await filled(log)
    async with both(log).state(TENANT, "b") as state:
        size = state.bytes_held
    follower = both(log, state_budget_bytes=2 * size)
    for version in (10, 9, 8):
        await view_of(follower, at_version=version)
        assert follower.bytes_held <= 2 * size


async def test_a_stopped_bank_is_not_looked_at_until_it_has_cooled_down(log, monkeypatch) -> None:
    alerts = []
    monkeypatch.setattr(follower_module, "STOPPED_S", 1000.0)
    await filled(log)
    await filled(log, "sound")
    follower = Follower(log, ("memory",), BUDGET, on_stopped=lambda *what: alerts.append(what))
    held = log._banks[TENANT, "b"]
    sound, held.entries[4].salted = held.entries[4].salted, b"noise"
    for _ in range(3):
        with pytest.raises(DataLoss):
            await view_of(follower)
    assert [(tenant, bank) for tenant, bank, _ in alerts] == [(TENANT, "b")], "one alert"
    assert follower.stopped(TENANT, "b") is alerts[0][2]
    assert follower.stopped(TENANT, "sound") is None and (await view_of(follower, "sound"))[0] == 10
    held.entries[4].salted = sound
    log.tails.clear()
    with pytest.raises(DataLoss):
        await view_of(follower)
    assert not log.tails, "still cooling down"
    monkeypatch.setattr(follower_module, "STOPPED_S", 0.0)
    assert (await view_of(follower))[0] == 10
    assert follower.stopped(TENANT, "b") is None


async def test_a_bank_without_room_for_rows_refuses_writes_before_they_are_acknowledged(
    log, monkeypatch
) -> None:
    """An acknowledged one could not be folded any more, and stopped the bank for good."""
    monkeypatch.setattr(larimar.state, "MAX_ROWS", 10)
    monkeypatch.setattr(capacity, "MARGIN_ROWS", 4)
    await log.make_bank(faults.T, faults.B, faults.config_of())
    services = [MemoryService(log, both(log)) for _ in range(2)]
    reasons = []
    for n in range(8):
        items = [
            faults.append_item(f"e{n}", f"fact {n}"),
            faults.append_item(f"x{n}", f"other {n}"),
        ]
        made = await services[n % 2].Append(faults.append_request(*items), None)
        reasons += [result.status.reason for result in made.results]
    # The first call of a process has nothing yet to go by.
    assert reasons == [""] * 6 + ["BANK_FULL"] * 10
    again = faults.append_request(faults.append_item("e0", "fact 0"))
    (result,) = (await services[0].Append(again, None)).results
    assert (result.version, result.duplicate) == (1, True)
    kind = common_pb2.EVENT_KIND_FORGET
    forgets = [
        memory_pb2.AppendItem(kind=kind, event_id=f"f{n}", fact_id=f"fact {n}") for n in range(2)
    ]
    request = faults.append_request(*forgets)
    assert [one.version for one in (await services[1].Append(request, None)).results] == [7, 8]
    new = faults.append_request(faults.append_item("n", "new"), faults.append_item("m", "more"))
    assert [one.version for one in (await services[0].Append(new, None)).results] == [9, 10]
    async with both(log).state(faults.T, faults.B) as state:
        assert state.row_count == 6


async def test_a_stopped_bank_leaves_the_others_in_a_list(log) -> None:
    await filled(log)
    await filled(log, "sound")
    log._banks[TENANT, "b"].entries[4].salted = b"noise"
    service = MemoryService(log, Follower(log, ("memory",), BUDGET))
    request = memory_pb2.EnumerateBanksRequest(context=common_pb2.CallContext(tenant=TENANT))
    listed = (await service.EnumerateBanks(request, None)).banks
    found = {info.config.bank: (info.version, info.stopped) for info in listed}
    assert found["sound"] == (10, "")
    version, why = found["b"]
    assert version == 0 and "payload" in why
    assert listed[0].config.value_size == CONFIG.value_size


async def stops_in_a_list(log: MemoryLog) -> dict[str, str]:
    """The banks of a list, each with why it is stopped."""
    service = MemoryService(log, Follower(log, ("memory",), BUDGET))
    request = memory_pb2.EnumerateBanksRequest(context=common_pb2.CallContext(tenant=TENANT))
    listed = (await service.EnumerateBanks(request, None)).banks
    return {info.config.bank: info.stopped for info in listed}


async def test_a_bank_that_is_deleted_meanwhile_is_left_out_of_a_list(log, monkeypatch) -> None:
    for bank in ("b", "gone", "sound"):
        await filled(log, bank)
    names = await log.banks(TENANT)

    async def named(tenant: str) -> list[str]:
        return names

    monkeypatch.setattr(log, "banks", named)
    await log.drop_bank(TENANT, "gone")
    assert await stops_in_a_list(log) == {"b": "", "sound": ""}


async def test_a_bank_that_does_not_fit_into_memory_leaves_the_others_in_a_list(
    log, monkeypatch
) -> None:
    await filled(log)
    await filled(log, "small", n=4)
    monkeypatch.setattr(larimar.state, "MAX_ROWS", 5)
    stops = await stops_in_a_list(log)
    assert "rows" in stops.pop("b") and stops == {"small": ""}


async def pages_of(method, request, field: str) -> list:
    """All pages, gone on by `next_after`, each of which must fit a message."""
    request.page_size, pages = 1000, []
    while not pages or request.after:
        pages.append(await method(request, None))
        assert getattr(pages[-1], field) and pages[-1].ByteSize() < MAX_MESSAGE_BYTES
        request.after = pages[-1].next_after
    return pages


async def test_a_page_of_long_texts_ends_before_it_fills_a_message(log) -> None:
    await log.make_bank(TENANT, "b", CONFIG)
    for variant in "xy":
        for n in range(300):
            payload = payload_of(CONFIG, f"fact {n:03}", n)
            long = replace(payload, prompt=variant * 2**14, answer=variant * 2**14).to_bytes()
            write = Append(Kind.WRITE, f"{variant}{n}", f"fact {n:03}", b"", long)
            await log.append(TENANT, "b", [write])
    service = MemoryService(log, both(log))
    ids = [f"fact {n:03}" for n in range(300)]
    call = memory_pb2.EnumerateFactsRequest(bank="b")
    pages = await pages_of(service.EnumerateFacts, call, "facts")
    assert [fact.fact_id for page in pages for fact in page.facts] == ids and len(pages) == 3
    call = memory_pb2.CompareVersionsRequest(bank="b", from_version=300)
    pages = await pages_of(service.CompareVersions, call, "changes")
    assert [one.fact_id for page in pages for one in page.changes] == ids and len(pages) == 5
    assert all(page.changed == 300 for page in pages)


async def test_a_page_has_one_fact_however_long_it_is(log, monkeypatch) -> None:
    await filled(log)
    monkeypatch.setattr(operations, "PAGE_BYTES", 1)
    service = MemoryService(log, both(log))
    call = memory_pb2.EnumerateFactsRequest(bank="b")
    pages = await pages_of(service.EnumerateFacts, call, "facts")
    assert [len(page.facts) for page in pages] == [1] * pages[0].total
    call = memory_pb2.CompareVersionsRequest(bank="b")
    pages = await pages_of(service.CompareVersions, call, "changes")
    assert [len(page.changes) for page in pages] == [1] * pages[0].added


@pytest.mark.parametrize("addressing", ADDRESSINGS)
async def test_a_cold_bank_is_loaded_from_a_checkpoint_and_its_tail_alone(log, addressing) -> None:
    config = config_of(addressing)
    await log.make_bank(TENANT, "b", config)
    for low in range(0, 200, 50):
        items = [write_of(config, f"fact {v}", v) for v in range(low, low + 50)]
        await log.append(TENANT, "b", items)
    await both(log).save_checkpoint(TENANT, "b")
    await log.append(TENANT, "b", [write_of(config, "late", 3), forget_of("fact 7")])
    log.tails.clear()
    follower = both(log)
    warm = await state_of(follower)
    assert log.tails and min(log.tails) == 200, "no event before the checkpoint was read"
    assert warm == frozen(await follower.rebuilt(TENANT, "b"))


@pytest.mark.parametrize("addressing", ADDRESSINGS)
async def test_a_checkpoint_that_holds_an_erased_fact_is_skipped(log, addressing) -> None:
    config = config_of(addressing)
    await filled(log, config=config)
    await both(log).save_checkpoint(TENANT, "b")
    await log.erase(TENANT, "b", [erase_of("fact 3")])
    log.tails.clear()
    follower = both(log)
    before = checkpoint_counts()
    version, _, facts = await view_of(follower)
    assert (version, "fact 3" in facts, min(log.tails)) == (11, False, 0)
    assert checkpoint_counts() == before | {"outdated": before["outdated"] + 1}, "and no alert"
    await follower.save_checkpoint(TENANT, "b")
    log.tails.clear()
    assert await state_of(both(log)) == await state_of(follower)
    assert min(log.tails) == 11, "the newer one, without the fact, serves"


@pytest.mark.parametrize("addressing", ADDRESSINGS)
@pytest.mark.parametrize("checkpoint", [False, True])
async def test_a_follower_whose_fact_lost_its_vectors_meanwhile(
    log, addressing, checkpoint
) -> None:
    """It held the fact, and looks again only after ERASE and the payload's deletion."""
    config = config_of(addressing)
    await filled(log, config=config)
    behind = both(log)
    await state_of(behind)
    await log.append(TENANT, "b", [write_of(config, "fact 3", 77)])
    await log.erase(TENANT, "b", [erase_of("fact 3"), erase_of("fact 0")])
    if checkpoint:
        await both(log).save_checkpoint(TENANT, "b")
    assert await log.remove_payloads(TENANT, "b", ["fact 3", "fact 0"]) == 4
    seen = await state_of(behind)
    assert seen == await state_of(both(log)) == frozen(await behind.rebuilt(TENANT, "b"))
    assert not {"fact 3", "fact 0"} & set(seen[2])


async def test_an_erasure_that_reaches_a_fork_without_an_event_there(log) -> None:
    """The fact was written in the origin after the fork point: the fork only counts it."""
    await filled(log)
    await log.fork(TENANT, "b", "fork", 5)
    follower = both(log)
    before = await view_of(follower, "fork")
    await log.append(TENANT, "b", [write_of(CONFIG, "later", 1)])
    await log.erase(TENANT, "b", [erase_of("later")])
    assert await view_of(follower, "fork") == before
    async with follower.state(TENANT, "fork") as state:
        assert (state.version, state.erase_count, state.erased) == (5, 1, {"later"})
    verified = await follower.verified(TENANT, "fork")
    assert verified.matches and verified.erase_count == 1


@pytest.mark.parametrize("addressing", ADDRESSINGS)
async def test_a_store_restored_from_before_an_erasure(log, addressing) -> None:
    """What is erased no more is folded again, until it is erased again."""
    config = config_of(addressing)
    await filled(log, config=config)
    await log.append(TENANT, "b", [write_of(config, "kept", 1)])
    follower = both(log)
    wanted = await state_of(follower)
    family = log._banks[TENANT, "b"].family
    family.erased.add("fact 3")
    assert "fact 3" not in (await view_of(follower))[2]
    family.erased.clear()
    assert await state_of(follower) == wanted


@pytest.mark.parametrize("addressing", ADDRESSINGS)
async def test_forks_of_forks_are_folded_across_their_fork_points(log, addressing) -> None:
    config = config_of(addressing)
    await filled(log, config=config)
    await log.fork(TENANT, "b", "one", 6)
    await log.append(TENANT, "one", [write_of(config, "of one", 1), forget_of("fact 2")])
    await log.fork(TENANT, "one", "two", 7)
    await log.append(TENANT, "two", [write_of(config, "of two", 2)])
    await log.append(TENANT, "b", [write_of(config, "of b", 3)])
    follower = both(log)
    assert await view_of(follower, "one") == (
        8, False, {f"fact {n}" for n in (0, 1, 3, 4, 5)} | {"of one"},
    )  # fmt: skip
    assert await view_of(follower, "two") == (
        8, False, {f"fact {n}" for n in range(6)} | {"of one", "of two"},
    )  # fmt: skip
    assert "of one" not in (await view_of(follower))[2]
    for bank in ("b", "one", "two"):
        assert await state_of(follower, bank) == frozen(await follower.rebuilt(TENANT, bank))
    async with follower.view(TENANT, "two", at_version=6) as fork:
        shared = everything(fork.state)
    async with follower.view(TENANT, "b", at_version=6) as origin:
        assert everything(origin.state) == shared


async def test_banks_in_use_are_kept_warm(log) -> None:
    await filled(log)
    follower = Follower(log, ("memory", "scope"), BUDGET, warm_every_s=0.005)
    await state_of(follower)
    await log.append(TENANT, "b", [write_of(CONFIG, "new", 1)])
    held = follower._held[TENANT, "b", 0]
    await eventually(lambda: held.state is not None and held.state.version == 11)  # without a read
    log.down = True
    await asyncio.sleep(0.03)
    log.down = False
    await log.append(TENANT, "b", [write_of(CONFIG, "newer", 1)])
    assert (await view_of(follower))[0] == 12
    assert follower._warmer is not None and not follower._warmer.done()
    await follower.close()
    assert follower._warmer.done()


async def test_verified_tells_a_served_state_that_is_not_the_logs(log) -> None:
    await filled(log)
    follower = both(log)
    verified = await follower.verified(TENANT, "b")
    assert verified.matches and (verified.version, verified.facts) == (10, 6)
    state = follower._held[TENANT, "b", 0].state
    assert state is not None
    state.erase(["fact 3"], {})
    state.erased.clear()
    state.erase_count = 0
    assert not (await follower.verified(TENANT, "b")).matches
