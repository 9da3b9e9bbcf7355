"""The gateway over object doors: what users call, with real services and the shipped model."""

from __future__ import annotations

import time

import pytest

from larimar.defaults import default_fact_id
from larimar.errors import (
    Conflict,
    NotFound,
    Unavailable,
)
from larimar.v1 import common_pb2 as common
from larimar.v1 import larimar_pb2 as pb
from tests.gateway_calls import (
    ANSWER,
    ELSEWHERE,
    FACTS,
    PROMPT,
    ask,
    digest,
    events,
    facts,
    forget,
    list_banks,
    write,
    write_many,
)
from tests.in_process import Door, Pipeline, Weights, new_bank_name


async def test_a_fact_is_written_asked_scored_and_forgotten(gateway, bank: str) -> None:
    plain, last = await ask(gateway, bank, PROMPT)
    assert not last.provenance.in_scope and last.provenance.version == 0
    written = await write(gateway, bank, PROMPT, ANSWER, rephrasings=["Velmora's capital city is"])
    assert (written.version, written.bank, written.duplicate) == (1, bank, False)
    assert written.fact_id == default_fact_id(PROMPT) and written.event_id
    for prompt in (PROMPT, "Velmora's capital city is"):
        _, last = await ask(gateway, bank, prompt)
        source = last.provenance
        assert source.in_scope and source.fact_id == written.fact_id
        assert (source.version, source.bank) == (1, bank)
        assert source.scope_score == pytest.approx(1.0, abs=1e-3)
        assert last.finish_reason in ("stop", "length") and last.tokens <= 3
    scored = await gateway.Score(
        pb.ScoreRequest(bank=bank, prompt=PROMPT, candidates=[" Tarsin", " red"])
    )
    assert scored.provenance == (await ask(gateway, bank, PROMPT))[1].provenance
    without = await gateway.Score(
        pb.ScoreRequest(bank=bank, prompt=PROMPT, candidates=[" Tarsin", " red"], no_memory=True)
    )
    assert list(scored.scores) != list(without.scores)
    gone = await forget(gateway, bank, written.fact_id)
    assert (gone.version, gone.fact_id, gone.bank) == (2, written.fact_id, bank)
    again, last = await ask(gateway, bank, PROMPT)
    assert again == plain and not last.provenance.in_scope and last.provenance.version == 2


async def test_out_of_scope_and_no_memory_say_exactly_the_same(gateway, bank: str) -> None:
    edit = await write(gateway, bank, PROMPT, ANSWER)
    settings = [{"max_tokens": 6}, {"max_tokens": 6, "temperature": 1.5, "seed": 11}]
    for sampling in settings:
        outside, last = await ask(gateway, bank, ELSEWHERE, sampling=sampling)
        plain, bare = await ask(gateway, bank, ELSEWHERE, sampling=sampling, no_memory=True)
        assert not last.provenance.in_scope and last.provenance.fact_id == ""
        assert 0 < last.provenance.scope_score < last.provenance.scope_threshold < 1
        assert last.provenance.nearest_fact_id == edit.fact_id
        assert outside == plain
        assert bare.provenance == pb.Provenance(bank=bank)
    request = {"bank": bank, "prompt": ELSEWHERE, "candidates": [" onions", " a pot"]}
    outside = await gateway.Score(pb.ScoreRequest(**request))
    plain = await gateway.Score(pb.ScoreRequest(**request, no_memory=True))
    assert list(outside.scores) == list(plain.scores)


async def test_an_answer_begins_without_blanks(gateway, bank: str) -> None:
    text, _ = await ask(
        gateway, bank, PROMPT, sampling={"max_tokens": 5, "temperature": 10.0, "seed": 2}
    )
    assert text and text == text.lstrip()


async def test_writing_a_live_fact_id_replaces_it_as_one_event(gateway, bank: str) -> None:
    await write(gateway, bank, PROMPT, ANSWER, fact_id="capital", rephrasings=["Velmora's seat is"])
    only = await digest(gateway, bank)
    second = await write(gateway, bank, PROMPT, "Ostrel", fact_id="capital")
    assert second.version == 2
    listed = await facts(gateway, bank)
    (fact,) = listed.facts
    assert (fact.answer, fact.version, list(fact.rephrasings)) == ("Ostrel", 2, [])
    assert (await digest(gateway, bank)).digest != only.digest
    await write(gateway, bank, PROMPT, ANSWER, fact_id="capital", rephrasings=["Velmora's seat is"])
    assert (await digest(gateway, bank)).digest == only.digest
    await forget(gateway, bank, "capital")
    assert not (await facts(gateway, bank)).facts, "forgetting a replaced fact removes all of it"


async def test_an_event_id_is_written_once(gateway, bank: str) -> None:
    first = await write(gateway, bank, PROMPT, ANSWER, event_id="e1")
    again = await write(gateway, bank, PROMPT, ANSWER, event_id="e1")
    assert (first.duplicate, again.duplicate) == (False, True)
    assert (again.version, again.fact_id) == (first.version, first.fact_id)
    gone = await forget(gateway, bank, first.fact_id, "e2")
    repeated = await forget(gateway, bank, first.fact_id, "e2")
    assert (repeated.version, repeated.duplicate) == (gone.version, True)
    with pytest.raises(Conflict) as caught:
        await write(gateway, bank, PROMPT, "Ostrel", event_id="e1")
    assert caught.value.reason == "CONFLICT"
    assert (await digest(gateway, bank)).version == 2


@pytest.mark.parametrize("text", [PROMPT, ELSEWHERE])
async def test_a_read_sees_every_edit_acknowledged_before_it(gateway, bank: str, text: str) -> None:
    for version in range(1, 4):
        await write(gateway, bank, PROMPT, f"town {version}", fact_id="capital")
        _, last = await ask(gateway, bank, text, min_version=version)
        assert last.provenance.version == version


@pytest.mark.parametrize(("addressing", "slots"), [("SLOTS", 0), ("PINV", 16), ("GAUSSIAN", 16)])
async def test_equal_facts_have_one_digest_and_a_forgotten_one_leaves_no_trace(
    gateway, addressing: str, slots: int
) -> None:
    """Whatever the order, the batches and what came between."""
    kind = common.Addressing.Value(f"ADDRESSING_{addressing}")
    banks = [new_bank_name() for _ in range(3)]
    for name in banks:
        made = await gateway.CreateBank(
            pb.CreateBankRequest(bank=name, addressing=kind, slots=slots)
        )
        assert made.created and made.info.config.addressing == kind
    one, other, never = banks
    for prompt, answer in FACTS:
        await write(gateway, one, prompt, answer, rephrasings=["Also: " + prompt])
    turned = [
        pb.WriteRequest(bank=other, prompt=p, answer=a, rephrasings=["Also: " + p])
        for p, a in reversed(FACTS)
    ]
    await write(gateway, other, FACTS[2][0], "somebody else")
    assert all(not done.status.code for done in await write_many(gateway, turned))
    assert (await digest(gateway, one)).digest == (await digest(gateway, other)).digest
    await forget(gateway, one, default_fact_id(FACTS[0][0]))
    for prompt, answer in FACTS[1:]:
        await write(gateway, never, prompt, answer, rephrasings=["Also: " + prompt])
    without = await digest(gateway, never)
    assert (await digest(gateway, one)).digest == without.digest and without.facts == 5
    replays = [await gateway.Replay(pb.ReplayRequest(bank=name)) for name in (one, never)]
    assert all(replay.matches for replay in replays)
    assert replays[0].folded_sha256 == replays[1].folded_sha256
    _, last = await ask(gateway, one, FACTS[3][0])
    assert last.provenance.fact_id == default_fact_id(FACTS[3][0])


async def test_facts_come_in_pages_by_fact_id(gateway, bank: str) -> None:
    ids = ["b", "a", "ä", "d d", "c"]
    for fact_id, (prompt, answer) in zip(ids, FACTS, strict=False):
        await write(gateway, bank, prompt, answer, fact_id=fact_id)
    await forget(gateway, bank, "b")
    live = sorted({*ids} - {"b"})
    seen, after = [], ""
    while True:
        page = await facts(gateway, bank, page_size=2, after=after)
        assert (page.total, page.version) == (4, 6) and 0 < len(page.facts) <= 2
        seen += [fact.fact_id for fact in page.facts]
        after = page.next_after
        if not after:
            break
        assert after == seen[-1]
    assert seen == live
    assert [fact.fact_id for fact in (await facts(gateway, bank)).facts] == live
    (fact,) = (await facts(gateway, bank, fact_id="ä")).facts
    assert (fact.prompt, fact.answer, fact.version) == (*FACTS[2], 3)
    for fact_id in ("b", "unknown"):
        assert not (await facts(gateway, bank, fact_id=fact_id)).facts
    assert not (await facts(gateway, bank, after="ä")).facts


async def test_a_bank_made_anew_lists_its_own_facts(gateway, bank: str) -> None:
    """At the version at which the one before it was listed."""
    await write(gateway, bank, *FACTS[0], fact_id="old")
    assert [fact.fact_id for fact in (await facts(gateway, bank)).facts] == ["old"]
    await gateway.DeleteBank(pb.DeleteBankRequest(bank=bank))
    await gateway.CreateBank(pb.CreateBankRequest(bank=bank))
    await write(gateway, bank, *FACTS[1], fact_id="new")
    assert [fact.fact_id for fact in (await facts(gateway, bank)).facts] == ["new"]


async def test_events_come_in_pages_by_version(gateway, bank: str) -> None:
    for prompt, answer in FACTS[:4]:
        await write(gateway, bank, prompt, answer)
    fact_id = default_fact_id(FACTS[0][0])
    await forget(gateway, bank, fact_id)
    pages = [await events(gateway, bank, after_version=v, page_size=2) for v in (0, 2, 4, 5)]
    assert [[event.version for event in page.events] for page in pages] == [[1, 2], [3, 4], [5], []]
    assert {page.version for page in pages} == {5}
    last = pages[2].events[0]
    assert (last.kind, last.fact_id) == (common.EVENT_KIND_FORGET, fact_id)
    assert last.payload_sha256 == "" and len(last.chain) == 40
    first = pages[0].events[0]
    assert first.kind == common.EVENT_KIND_WRITE and len(first.payload_sha256) == 64
    assert abs(first.time_ms / 1000 - time.time()) < 600


async def test_banks_are_made_listed_and_deleted(gateway, bank: str) -> None:
    again = await gateway.CreateBank(pb.CreateBankRequest(bank=bank))
    assert not again.created and again.info.config.bank == bank
    await write(gateway, bank, PROMPT, ANSWER)
    info = (await gateway.GetBank(pb.GetBankRequest(bank=bank))).info
    assert (info.version, info.facts) == (1, 1) and info.state_bytes > 0
    listed = {info.config.bank: info for info in (await list_banks(gateway))}
    assert listed[bank] == info
    await gateway.DeleteBank(pb.DeleteBankRequest(bank=bank))
    assert bank not in {info.config.bank for info in await list_banks(gateway)}
    with pytest.raises(NotFound):
        await gateway.DeleteBank(pb.DeleteBankRequest(bank=bank))


@pytest.mark.parametrize(
    "use",
    [
        lambda gateway: write(gateway, "", PROMPT, ANSWER),
        lambda gateway: ask(gateway, "", PROMPT),
        lambda gateway: digest(gateway, ""),
        lambda gateway: facts(gateway, ""),
        lambda gateway: events(gateway, "default"),
        lambda gateway: gateway.GetBank(pb.GetBankRequest()),
        lambda gateway: gateway.Replay(pb.ReplayRequest()),
    ],
)
async def test_the_default_bank_is_there_when_it_is_first_used(weights: Weights, use) -> None:
    gateway = Pipeline(weights).gateway()
    assert await list_banks(gateway) == []
    await use(gateway)
    assert [info.config.bank for info in await list_banks(gateway)] == ["default"]


async def test_banks_and_tenants_are_isolated(pipeline: Pipeline, gateway, bank: str) -> None:
    other = new_bank_name()
    await gateway.CreateBank(pb.CreateBankRequest(bank=other))
    written = await write(gateway, bank, PROMPT, ANSWER)
    empty = await digest(gateway, other)
    assert empty.facts == empty.version == 0
    _, last = await ask(gateway, other, PROMPT)
    assert not last.provenance.in_scope and last.provenance.scope_score == -1.0
    assert not (await facts(gateway, other)).facts and not (await events(gateway, other)).events
    with pytest.raises(NotFound) as caught:
        await forget(gateway, other, written.fact_id)
    assert caught.value.reason == "UNKNOWN_FACT"
    stranger = pipeline.gateway(tenant="stranger")
    assert await list_banks(stranger) == []
    for call in (digest, facts, events):
        with pytest.raises(NotFound) as caught:
            await call(stranger, bank)
        assert caught.value.reason == "UNKNOWN_BANK"
    await stranger.CreateBank(pb.CreateBankRequest(bank=bank))
    await write(stranger, bank, ELSEWHERE, "an onion", event_id=written.event_id)
    await stranger.DeleteBank(pb.DeleteBankRequest(bank=bank))
    assert (await facts(gateway, bank)).facts[0].answer == ANSWER


async def test_a_checkpoint_changes_nothing(pipeline: Pipeline, gateway, bank: str) -> None:
    for prompt, answer in FACTS[:3]:
        await write(gateway, bank, prompt, answer)
    before = await digest(gateway, bank)
    saved = await gateway.Checkpoint(pb.CheckpointRequest(bank=bank))
    assert (saved.bank, saved.version, saved.digest) == (bank, 3, before.digest)
    assert saved.bytes > 0
    await write(gateway, bank, *FACTS[3])
    restarted = Pipeline(pipeline.weights, pipeline.log).gateway()
    assert await digest(restarted, bank) == await digest(gateway, bank)
    replay = await restarted.Replay(pb.ReplayRequest(bank=bank))
    assert replay.matches and (replay.version, replay.events) == (4, 4)
    assert replay.digest == (await digest(gateway, bank)).digest


async def test_replay_tells_of_a_difference(pipeline: Pipeline, gateway, bank: str) -> None:
    """A served state that is not what the log says, as after a fault of memory."""
    await write(gateway, bank, PROMPT, ANSWER)
    async with pipeline.follower.state("default", bank) as state:
        (slot,) = state.facts.slots.values()
        sha256 = state.facts._sha256[slot].copy()
        state.facts._sha256[slot] = 0
        state._known.clear()
    assert not (await gateway.Replay(pb.ReplayRequest(bank=bank))).matches
    async with pipeline.follower.state("default", bank) as state:
        state.facts._sha256[slot] = sha256
        state._known.clear()
    assert (await gateway.Replay(pb.ReplayRequest(bank=bank))).matches


async def test_the_status_names_every_service(pipeline: Pipeline, gateway, weights) -> None:
    status = await gateway.GetStatus(pb.GetStatusRequest())
    assert [one.name for one in status.services] == [
        "gateway",
        "encoder",
        "scope",
        "memory",
        "decoder",
    ]
    assert all(one.ready and one.pid for one in status.services)
    assert status.encoder_digest == weights.folder.encoder_digest
    assert status.model_digest == weights.folder.model_digest
    assert status.scope_digest == weights.embedder.digest

    async def down(request, call):
        raise Unavailable("the scope service does not answer: retry", "SERVICE_DOWN")

    without = pipeline.gateway(scope=Door(pipeline.doors["scope"], DescribeScope=down))
    status = await without.GetStatus(pb.GetStatusRequest())
    found = {one.name: one for one in status.services}
    assert not found.pop("scope").ready and all(one.ready for one in found.values())
    assert status.scope_digest == "" and status.encoder_digest
