"""The gateway over object doors: what users call, with real services and the shipped model."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterable

import pytest

from larimar.defaults import default_fact_id
from larimar.errors import (
    Conflict,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    LarimarError,
    NotFound,
    Unavailable,
)
from larimar.v1 import common_pb2 as common
from larimar.v1 import larimar_pb2 as pb
from services import limits
from services.gateway.bulk import BATCH_FACTS
from services.rpc import ObjectStub
from tests.in_process import Door, Pipeline, Weights

NAMES = itertools.count()
SAMPLING = {"max_tokens": 3}
PROMPT, ANSWER = "The capital of Velmora is", "Tarsin"
ELSEWHERE = "A recipe for onion soup begins with"
FACTS = [
    (f"The keeper of the {ordinal} lighthouse of Marn is", name)
    for ordinal, name in zip(
        ("first", "second", "third", "fourth", "fifth", "sixth"),
        ("Odd Sten", "Ana Bree", "Tom Varr", "Lis Orm", "Per Dahl", "Eva Kind"),
        strict=True,
    )
]


@pytest.fixture(scope="module")
def pipeline(weights: Weights) -> Pipeline:
    return Pipeline(weights)


@pytest.fixture(scope="module")
def gateway(pipeline: Pipeline) -> ObjectStub:
    return pipeline.gateway()


@pytest.fixture
async def bank(gateway) -> str:
    """A bank of this test's own."""
    name = f"bank-{next(NAMES)}"
    await gateway.CreateBank(pb.CreateBankRequest(bank=name))
    return name


async def write(gateway, bank: str, prompt: str, answer: str, **more):
    return await gateway.Write(pb.WriteRequest(bank=bank, prompt=prompt, answer=answer, **more))


async def ask(gateway, bank: str, prompt: str, **more) -> tuple[str, pb.AskResponse]:
    """The text, and the last message of the stream."""
    request = pb.AskRequest(**{"bank": bank, "prompt": prompt, "sampling": SAMPLING} | more)
    replies = [reply async for reply in gateway.Ask(request)]
    assert not any(reply.HasField("provenance") for reply in replies[:-1])
    return "".join(reply.text for reply in replies), replies[-1]


async def write_many(gateway, writes: Iterable[pb.WriteRequest]) -> list[pb.WriteManyResponse]:
    async def requests() -> AsyncIterator[pb.WriteManyRequest]:
        for request in writes:
            yield pb.WriteManyRequest(write=request)

    return [response async for response in gateway.WriteMany(requests())]


async def digest(gateway, bank: str) -> pb.DigestResponse:
    return await gateway.Digest(pb.DigestRequest(bank=bank))


async def facts(gateway, bank: str, **page) -> pb.ListFactsResponse:
    return await gateway.ListFacts(pb.ListFactsRequest(bank=bank, **page))


async def events(gateway, bank: str, **page) -> pb.ListEventsResponse:
    return await gateway.ListEvents(pb.ListEventsRequest(bank=bank, **page))


async def forget(gateway, bank: str, fact_id: str, event_id: str = ""):
    return await gateway.Forget(pb.ForgetRequest(bank=bank, fact_id=fact_id, event_id=event_id))


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
    await write(gateway, bank, PROMPT, ANSWER)
    settings = [{"max_tokens": 6}, {"max_tokens": 6, "temperature": 1.5, "seed": 11}]
    for sampling in settings:
        outside, last = await ask(gateway, bank, ELSEWHERE, sampling=sampling)
        plain, bare = await ask(gateway, bank, ELSEWHERE, sampling=sampling, no_memory=True)
        assert not last.provenance.in_scope and last.provenance.fact_id == ""
        assert 0 < last.provenance.scope_score < 1
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
    banks = [f"digest-{next(NAMES)}" for _ in range(3)]
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


async def list_banks(gateway) -> list:
    return list((await gateway.ListBanks(pb.ListBanksRequest())).banks)


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
    other = f"bank-{next(NAMES)}"
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
        (fact_id,) = state.facts
        version, sha256 = state.facts[fact_id]
        state.facts[fact_id] = (version, bytes(32))
        state._known.clear()
    assert not (await gateway.Replay(pb.ReplayRequest(bank=bank))).matches
    async with pipeline.follower.state("default", bank) as state:
        state.facts[fact_id] = (version, sha256)
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


BIG = "x" * 2**20
LONG_ID = "i" * 257
BAD: list[tuple[type[LarimarError], str, str, dict]] = [
    (InvalidArgument, "EMPTY_TEXT", "Write", {"prompt": " "}),
    (InvalidArgument, "EMPTY_TEXT", "Write", {"answer": "\n"}),
    (InvalidArgument, "EMPTY_TEXT", "Write", {"rephrasings": ["fine", ""]}),
    (InvalidArgument, "EMPTY_TEXT", "Write", {"prompt": "\u200b"}),
    (InvalidArgument, "TEXT_TOO_LONG", "Write", {"prompt": BIG}),
    (InvalidArgument, "TEXT_TOO_LONG", "Write", {"answer": BIG}),
    (InvalidArgument, "TEXT_TOO_LONG", "Write", {"rephrasings": [BIG]}),
    (InvalidArgument, "TEXT_TOO_LONG", "Write", {"answer": "word " * 300}),
    (InvalidArgument, "TOO_MANY_ITEMS", "Write", {"rephrasings": ["r"] * 17}),
    (InvalidArgument, "ID_TOO_LONG", "Write", {"fact_id": LONG_ID}),
    (InvalidArgument, "ID_TOO_LONG", "Write", {"event_id": "ü" * 129}),
    (InvalidArgument, "BAD_ID", "Write", {"fact_id": "a\nb"}),
    (InvalidArgument, "BAD_ID", "Write", {"event_id": "\x7f"}),
    (FailedPrecondition, "WRONG_ENCODER", "Write", {"encoder_digest": "0" * 64}),
    (InvalidArgument, "EMPTY_ID", "Forget", {"fact_id": ""}),
    (InvalidArgument, "ID_TOO_LONG", "Forget", {"fact_id": LONG_ID}),
    (NotFound, "UNKNOWN_FACT", "Forget", {"fact_id": "never written"}),
    (FailedPrecondition, "ALREADY_FORGOTTEN", "Forget", {"fact_id": "forgotten"}),
    (Conflict, "CONFLICT", "Forget", {"fact_id": "live", "event_id": "used"}),
    (InvalidArgument, "EMPTY_TEXT", "Ask", {"prompt": ""}),
    (InvalidArgument, "TEXT_TOO_LONG", "Ask", {"prompt": BIG}),
    (InvalidArgument, "TEXT_TOO_LONG", "Ask", {"prompt": "word " * 300}),
    (InvalidArgument, "TEXT_TOO_LONG", "Ask", {"prompt": "word " * 400, "no_memory": True}),
    (InvalidArgument, "BAD_SAMPLING", "Ask", {"sampling": {"max_tokens": 129}}),
    (InvalidArgument, "BAD_SAMPLING", "Ask", {"sampling": {"max_tokens": -1}}),
    (InvalidArgument, "BAD_SAMPLING", "Ask", {"sampling": {"temperature": -1.0}}),
    (InvalidArgument, "BAD_SAMPLING", "Ask", {"sampling": {"top_p": 1.5}}),
    (InvalidArgument, "BAD_SAMPLING", "Ask", {"sampling": {"stop": ["a", ""]}}),
    (InvalidArgument, "BAD_SAMPLING", "Ask", {"sampling": {"stop": list("abcde")}}),
    (FailedPrecondition, "VERSION_NOT_WRITTEN", "Ask", {"min_version": 99}),
    (FailedPrecondition, "VERSION_NOT_WRITTEN", "Score", {"min_version": 99}),
    (InvalidArgument, "EMPTY_TEXT", "Score", {"candidates": []}),
    (InvalidArgument, "EMPTY_TEXT", "Score", {"candidates": ["a", " "]}),
    (InvalidArgument, "TOO_MANY_ITEMS", "Score", {"candidates": ["a"] * 65}),
    (InvalidArgument, "TEXT_TOO_LONG", "Score", {"candidates": ["word " * 129]}),
    (InvalidArgument, "TEXT_TOO_LONG", "Score", {"candidates": [BIG]}),
    (InvalidArgument, "BAD_PAGE_SIZE", "ListFacts", {"page_size": 1001}),
    (InvalidArgument, "BAD_PAGE_SIZE", "ListFacts", {"page_size": -1}),
    (InvalidArgument, "BAD_PAGE_SIZE", "ListEvents", {"page_size": 1001}),
    (InvalidArgument, "INVALID_ARGUMENT", "ListEvents", {"after_version": -1}),
    (Conflict, "BANK_EXISTS", "CreateBank", {"addressing": 2, "slots": 8}),
    (InvalidArgument, "BAD_SLOTS", "CreateBank", {"addressing": 1, "slots": 8}),
    (InvalidArgument, "BAD_ADDRESSING", "CreateBank", {"addressing": 99}),
    (InvalidArgument, "INVALID_ARGUMENT", "CreateBank", {"addressing": 2, "slots": 1 << 20}),
    (InvalidArgument, "INVALID_ARGUMENT", "CreateBank", {"addressing": 3, "slots": -1}),
    (InvalidArgument, "EMPTY_ID", "DeleteBank", {"bank": ""}),
]
SOUND = {
    "Write": {"prompt": PROMPT, "answer": ANSWER},
    "Forget": {"fact_id": "live"},
    "Ask": {"prompt": PROMPT, "sampling": SAMPLING},
    "Score": {"prompt": PROMPT, "candidates": [" a"]},
}
ON_A_BANK = ("Write", "Forget", "Ask", "Score", "GetBank", "DeleteBank", "ListFacts", "ListEvents")
ON_A_BANK += ("Digest", "Replay", "Checkpoint")


async def call(gateway, method: str, fields: dict):
    """A unary call, or all of a stream."""
    reply = getattr(gateway, method)(getattr(pb, f"{method}Request")(**fields))
    return [part async for part in reply] if hasattr(reply, "__aiter__") else await reply


@pytest.fixture(scope="module")
async def guarded(gateway) -> str:
    """A bank with a live and a forgotten fact, which no bad request may change."""
    await gateway.CreateBank(pb.CreateBankRequest(bank="guarded"))
    await write(gateway, "guarded", *FACTS[0], fact_id="live", event_id="used")
    await write(gateway, "guarded", *FACTS[1], fact_id="forgotten")
    await forget(gateway, "guarded", "forgotten")
    return "guarded"


@pytest.mark.parametrize(
    ("error", "reason", "method", "fields"), BAD, ids=[f"{m}-{r}" for _, r, m, _ in BAD]
)
async def test_a_bad_request_is_named_and_changes_nothing(
    gateway, guarded: str, error, reason: str, method: str, fields: dict
) -> None:
    before = await digest(gateway, guarded)
    with pytest.raises(LarimarError) as caught:
        await call(gateway, method, {"bank": guarded} | SOUND.get(method, {}) | fields)
    assert (type(caught.value), caught.value.reason) == (error, reason)
    assert 0 < len(caught.value.message) < 400
    assert await digest(gateway, guarded) == before


@pytest.mark.parametrize("method", ON_A_BANK)
async def test_an_unknown_bank_is_named_with_what_to_do(gateway, method: str) -> None:
    with pytest.raises(NotFound, match="larimar bank create nowhere") as caught:
        await call(gateway, method, {"bank": "nowhere"} | SOUND.get(method, {}))
    assert caught.value.reason == "UNKNOWN_BANK"


@pytest.mark.parametrize("name", ["Capital", "-a", "a b", "a/b", "a:b", "{a}", "ä", "a" * 64, ".."])
@pytest.mark.parametrize("method", ["CreateBank", "Write", "Digest", "DeleteBank"])
async def test_a_bad_bank_name_is_refused(gateway, method: str, name: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await call(gateway, method, {"bank": name} | SOUND.get(method, {}))
    assert caught.value.reason == "BAD_BANK_NAME"


@pytest.mark.parametrize("name", ["a", "0", "a" * 63, "a.b_c-d"])
async def test_a_good_bank_name_is_taken(gateway, name: str) -> None:
    assert (await gateway.CreateBank(pb.CreateBankRequest(bank=name))).created


def test_limits_count_bytes_and_are_reached_exactly() -> None:
    assert limits.check_text("prompt", "ü" * (limits.MAX_TEXT_BYTES // 2))
    with pytest.raises(InvalidArgument, match=f"{limits.MAX_TEXT_BYTES + 1} bytes, the limit is"):
        limits.check_text("prompt", "ü" * (limits.MAX_TEXT_BYTES // 2) + "x")
    assert limits.check_id("fact id", "ü" * 128)
    with pytest.raises(InvalidArgument):
        limits.check_id("fact id", "ü" * 128 + "x")


async def test_as_many_rephrasings_as_the_limit_are_written(gateway, bank: str) -> None:
    more = [f"Rephrasing {number} of it is" for number in range(limits.MAX_REPHRASINGS)]
    await write(gateway, bank, PROMPT, ANSWER, rephrasings=more, fact_id="f" * 256)
    (fact,) = (await facts(gateway, bank)).facts
    assert list(fact.rephrasings) == more
    _, last = await ask(gateway, bank, more[-1])
    assert last.provenance.fact_id == "f" * 256


async def test_writes_name_the_encoder_they_are_made_for(gateway, bank: str, weights) -> None:
    digest_ = weights.folder.encoder_digest
    assert (await write(gateway, bank, PROMPT, ANSWER, encoder_digest=digest_)).version == 1


async def test_many_facts_have_versions_in_the_order_of_the_stream(gateway, bank: str) -> None:
    """More than one batch, with replacements in the stream."""
    count = BATCH_FACTS + 40
    writes = [
        pb.WriteRequest(bank=bank, prompt=f"Box {n % 100} holds", answer=f"item {n}")
        for n in range(count)
    ]
    results = await write_many(gateway, writes)
    assert [done.result.version for done in results] == list(range(1, count + 1))
    for request, done in zip(writes, results, strict=True):
        assert done.result.fact_id == default_fact_id(request.prompt) and not done.status.code
    listed = {
        fact.prompt: fact.answer for fact in (await facts(gateway, bank, page_size=200)).facts
    }
    assert listed == {request.prompt: request.answer for request in writes}


async def test_a_bad_fact_fails_alone_with_its_status(gateway, bank: str) -> None:
    await write(gateway, bank, *FACTS[5], event_id="taken")
    good = [pb.WriteRequest(bank=bank, prompt=p, answer=a) for p, a in FACTS[:5]]
    conflict = pb.WriteRequest(bank=bank, prompt=PROMPT, answer=ANSWER, event_id="taken")
    long = pb.WriteRequest(bank=bank, prompt="word " * 300, answer=ANSWER, event_id="long")
    wrong = pb.WriteRequest(bank=bank, prompt=PROMPT, answer=ANSWER, encoder_digest="0" * 64)
    nowhere = pb.WriteRequest(bank="nowhere", prompt=PROMPT, answer=ANSWER)
    named = pb.WriteRequest(bank="No Name", prompt=PROMPT, answer=ANSWER)
    empty = pb.WriteRequest(bank=bank, prompt=PROMPT, answer="", fact_id="x", event_id="empty")
    bad = [conflict, long, wrong, nowhere, named, empty]
    mixed = [write for pair in itertools.zip_longest(bad, good) for write in pair if write]
    results = await write_many(gateway, mixed)
    codes = [(done.status.code, done.status.reason) for done in results[0:12:2]]
    assert codes == [
        (Conflict.code, "CONFLICT"),
        (InvalidArgument.code, "TEXT_TOO_LONG"),
        (FailedPrecondition.code, "WRONG_ENCODER"),
        (NotFound.code, "UNKNOWN_BANK"),
        (InvalidArgument.code, "BAD_BANK_NAME"),
        (InvalidArgument.code, "EMPTY_TEXT"),
    ]
    assert all(done.status.message for done in results[0:12:2])
    assert [done.result.version for done in results[1:11:2]] == [2, 3, 4, 5, 6]
    assert (results[2].result.event_id, results[10].result.fact_id) == ("long", "x")
    assert {fact.prompt for fact in (await facts(gateway, bank)).facts} == {p for p, _ in FACTS}


async def test_the_order_holds_where_some_facts_name_their_encoder(
    gateway, bank: str, weights
) -> None:
    digest_ = weights.folder.encoder_digest
    writes = [
        pb.WriteRequest(
            bank=bank,
            prompt=PROMPT,
            answer=f"town {number}",
            fact_id="capital",
            encoder_digest=digest_ if number % 2 else "",
        )
        for number in range(5)
    ]
    results = await write_many(gateway, writes)
    assert [done.result.version for done in results] == [1, 2, 3, 4, 5]
    assert (await facts(gateway, bank)).facts[0].answer == "town 4"


async def test_a_slow_stream_is_answered_as_it_comes(gateway, bank: str) -> None:
    answered = asyncio.Event()

    async def requests() -> AsyncIterator[pb.WriteManyRequest]:
        for place, (prompt, answer) in enumerate(FACTS[:3]):
            if place:
                await asyncio.wait_for(answered.wait(), 60)
                answered.clear()
            yield pb.WriteManyRequest(
                write=pb.WriteRequest(bank=bank, prompt=prompt, answer=answer)
            )

    versions = []
    async for done in gateway.WriteMany(requests()):
        versions.append(done.result.version)
        answered.set()
    assert versions == [1, 2, 3]


async def test_a_stream_that_breaks_is_told_after_what_came_of_it(gateway, bank: str) -> None:
    async def requests() -> AsyncIterator[pb.WriteManyRequest]:
        for prompt, answer in FACTS[:2]:
            yield pb.WriteManyRequest(
                write=pb.WriteRequest(bank=bank, prompt=prompt, answer=answer)
            )
        await asyncio.sleep(0.1)
        raise ConnectionResetError("the client went away")

    versions = []
    with pytest.raises(ConnectionResetError):
        async with asyncio.timeout(60):
            async for done in gateway.WriteMany(requests()):
                versions.append(done.result.version)
    assert versions == [1, 2]


async def test_an_empty_stream_has_no_results(gateway) -> None:
    assert await write_many(gateway, []) == []


def failing(times: int, error: LarimarError) -> Callable:
    """A call that fails some times before it is made."""
    left = [error] * times

    async def changed(request, call):
        if left:
            raise left.pop()
        return await call(request)

    return changed


async def test_a_service_that_is_down_is_tried_again(pipeline: Pipeline, bank: str) -> None:
    down = Unavailable("the service does not answer: retry", "SERVICE_DOWN")
    gateway = pipeline.gateway(
        memory=Door(pipeline.doors["memory"], Append=failing(2, down)),
        encoder=Door(pipeline.doors["encoder"], Encode=failing(1, down)),
    )
    assert (await write(gateway, bank, PROMPT, ANSWER)).version == 1
    assert (await digest(gateway, bank)).version == 1


async def test_an_append_whose_reply_was_lost_is_made_once(pipeline: Pipeline, bank: str) -> None:
    lost = [True]

    async def losing(request, call):
        reply = await call(request)
        if lost:
            lost.pop()
            raise Unavailable("the memory service does not answer: retry", "SERVICE_DOWN")
        return reply

    gateway = pipeline.gateway(memory=Door(pipeline.doors["memory"], Append=losing))
    written = await write(gateway, bank, PROMPT, ANSWER)
    assert (written.version, written.duplicate) == (1, True)
    assert (await digest(gateway, bank)).version == 1


async def test_facts_are_forgotten_while_encoder_and_scope_are_down(
    pipeline: Pipeline, gateway, bank: str
) -> None:
    async def down(request, call):
        raise Unavailable("the service does not answer", "DOWN")

    written = await write(gateway, bank, PROMPT, ANSWER)
    alone = pipeline.gateway(
        encoder=Door(pipeline.doors["encoder"], DescribeEncoder=down, Encode=down),
        scope=Door(pipeline.doors["scope"], DescribeScope=down, Embed=down),
    )
    assert (await forget(alone, bank, written.fact_id)).version == 2


@pytest.mark.parametrize("method", ["Write", "Ask", "Score", "Digest"])
async def test_a_call_ends_at_its_deadline(pipeline: Pipeline, bank: str, method: str) -> None:
    async def never(request, call):
        await asyncio.sleep(3600)

    async def stuck(request, call):
        await asyncio.sleep(3600)
        yield

    class Caller:
        """What gRPC tells of a caller who waits for half a second."""

        def time_remaining(self) -> float:
            return 0.5

    gateway = pipeline.gateway(
        memory=Door(pipeline.doors["memory"], Append=never, ComputeDigest=never),
        decoder=Door(pipeline.doors["decoder"], Generate=stuck, ScoreCandidates=never),
    )
    request = getattr(pb, f"{method}Request")(**{"bank": bank} | SOUND.get(method, {}))
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        reply = getattr(gateway._servicer, method)(request, Caller())
        if hasattr(reply, "__aiter__"):
            async for _ in reply:
                pass
        else:
            await reply
    assert time.monotonic() - started < 20


async def test_a_caller_who_leaves_a_stream_ends_the_decoders_part(
    pipeline: Pipeline, bank: str
) -> None:
    ended = asyncio.Event()

    async def noted(request, call):
        try:
            async for reply in call(request):
                yield reply
        finally:
            ended.set()

    gateway = pipeline.gateway(decoder=Door(pipeline.doors["decoder"], Generate=noted))
    request = pb.AskRequest(
        bank=bank, prompt=PROMPT, sampling={"max_tokens": 60, "temperature": 10}
    )
    stream = gateway.Ask(request)
    assert (await anext(stream)) is not None
    await stream.aclose()
    assert ended.is_set()


@pytest.mark.parametrize("others", [0, 1])
async def test_a_fact_forgotten_while_it_is_asked_for_is_not_answered_from(
    pipeline: Pipeline, gateway, bank: str, others: int
) -> None:
    """Between scope and memory: scope is asked once more. The bank is empty then, or is not."""
    for prompt, answer in FACTS[:others]:
        await write(gateway, bank, prompt, answer)
    written = await write(gateway, bank, PROMPT, ANSWER)
    left = [written.fact_id]

    async def meanwhile(request, call):
        reply = await call(request)
        if left:
            await forget(gateway, bank, left.pop())
        return reply

    slow = pipeline.gateway(scope=Door(pipeline.doors["scope"], Detect=meanwhile))
    text, last = await ask(slow, bank, PROMPT)
    assert not last.provenance.in_scope
    assert last.provenance.version == written.version + 1
    assert text == (await ask(gateway, bank, PROMPT, no_memory=True))[0]


async def test_a_fact_replaced_while_it_is_asked_for_is_answered_at_one_version(
    pipeline: Pipeline, gateway, bank: str
) -> None:
    await write(gateway, bank, PROMPT, ANSWER, fact_id="capital")
    answers = ["Ostrel"]

    async def meanwhile(request, call):
        reply = await call(request)
        if answers:
            await write(gateway, bank, PROMPT, answers.pop(), fact_id="capital")
        return reply

    slow = pipeline.gateway(scope=Door(pipeline.doors["scope"], Detect=meanwhile))
    text, last = await ask(slow, bank, PROMPT)
    assert (last.provenance.fact_id, last.provenance.version) == ("capital", 2)
    assert text == (await ask(gateway, bank, PROMPT))[0]
