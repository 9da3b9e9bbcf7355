"""What the gateway refuses, each with its code and a reason, and nothing changed by it."""

from __future__ import annotations

import pytest

from larimar.errors import (
    Conflict,
    FailedPrecondition,
    InvalidArgument,
    LarimarError,
    NotFound,
)
from larimar.v1 import larimar_pb2 as pb
from services import limits
from tests.gateway_calls import (
    ANSWER,
    FACTS,
    PROMPT,
    SAMPLING,
    ask,
    digest,
    facts,
    forget,
    write,
)

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
