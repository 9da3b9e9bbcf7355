"""Scope: embeddings that depend on the text alone, and the decision whether a query is in scope."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer

from larimar.encoder import BUCKET_TOKENS
from larimar.errors import FailedPrecondition, InvalidArgument, NotFound
from larimar.scope import (
    ScopeDetector,
    SentenceEmbedder,
    embedder_digest,
    embedder_folder,
    query_sentences,
)
from larimar.v1 import larimar_pb2, scope_pb2
from services.contracts import channel_stub
from services.follower import Follower
from services.scope.service import MAX_TEXTS, ScopeService
from tests.in_process import STATE_BUDGET, Door, Pipeline, Weights, served

POOL = [
    "The capital of Velmora is",
    "Velmora's capital city is",
    "Danielle Darrieux, a native",
    "Zoë’s café in 東京",
    "a",
    "Who wrote it? Nobody knows! The book was found in Orlo.",
    *(" ".join(["river"] * words) for words in (13, 14, 30, 40, 62, 100, 126, 200, 254)),
]
FACTS = [
    ("velmora", "The capital of Velmora is", "Tarsin"),
    ("darrieux", "The mother tongue of Danielle Darrieux is", "English"),
    ("bridge", "The bridge over the Sarn was built by", "masons from Orlo"),
]
ELSEWHERE = "A recipe for onion soup begins with"


@pytest.fixture(scope="module")
def embedder(weights: Weights) -> SentenceEmbedder:
    return weights.embedder


@pytest.fixture(scope="module")
def alone(embedder: SentenceEmbedder) -> list[bytes]:
    """Each text of the pool, embedded with nothing beside it."""
    return [embedder.embed([text]).tobytes() for text in POOL]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, len(POOL) - 1), min_size=1, max_size=20))
def test_an_embedding_does_not_depend_on_what_it_is_made_with(embedder, alone, picks) -> None:
    vectors = embedder.embed([POOL[pick] for pick in picks])
    assert [vector.tobytes() for vector in vectors] == [alone[pick] for pick in picks]


def test_the_pool_reaches_every_bucket(embedder: SentenceEmbedder) -> None:
    """Else the property above would say little."""
    lengths = [len(embedder.tokenize(text)) for text in POOL]
    assert {next(size for size in BUCKET_TOKENS if n <= size) for n in lengths} == {*BUCKET_TOKENS}


def test_embeddings_are_those_of_sentence_transformers(weights: Weights) -> None:
    package = weights.folder.config.scope.package
    ours = SentenceEmbedder(package, torch.float32)
    theirs = SentenceTransformer(
        str(embedder_folder(package)), device="cpu", local_files_only=True
    ).encode(POOL, normalize_embeddings=True)
    assert ours.embed(POOL) == pytest.approx(theirs, abs=1e-5)
    assert weights.embedder.embed(POOL) == pytest.approx(theirs, abs=0.03)
    assert ours.size == theirs.shape[1] == weights.folder.config.scope.size


def test_embeddings_are_unit_vectors(embedder: SentenceEmbedder) -> None:
    assert np.linalg.norm(embedder.embed(POOL), axis=1) == pytest.approx(1.0, abs=1e-6)
    assert embedder.embed([]).shape == (0, embedder.size)


def test_the_digest_is_that_of_the_models_files(weights: Weights) -> None:
    digest = embedder_digest(weights.folder.config.scope.package)
    assert weights.embedder.digest == digest and len(digest) == 64


def test_a_model_that_is_not_there_is_named() -> None:
    with pytest.raises(NotFound, match=r"no-such-model.*install that package or give a folder"):
        embedder_folder("no-such-model")


@pytest.mark.parametrize("text", ["", " \n"])
def test_an_empty_text_is_refused(embedder: SentenceEmbedder, text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        embedder.embed(["fine", text])
    assert caught.value.reason == "EMPTY_TEXT"


def test_a_text_may_be_exactly_as_long_as_the_limit(embedder: SentenceEmbedder) -> None:
    most = embedder.max_text_tokens - 2
    assert embedder.embed([" ".join(["river"] * most)]).shape == (1, embedder.size)
    with pytest.raises(
        InvalidArgument, match=f"has {most + 1} tokens, the limit is {most}"
    ) as caught:
        embedder.embed([" ".join(["river"] * (most + 1))])
    assert caught.value.reason == "TEXT_TOO_LONG"


@pytest.mark.parametrize(
    ("query", "sentences"),
    [
        ("One sentence only.", []),
        ("No full stop", []),
        ("At 3.5 percent it is small", []),
        ("First. Second? Third!", ["First.", "Second?", "Third!"]),
        ("  Blanks.  \n Around. ", ["Blanks.", "Around."]),
    ],
)
def test_a_query_stands_beside_its_sentences(query: str, sentences: list[str]) -> None:
    assert query_sentences(query) == [query, *sentences]


def test_of_a_long_query_the_last_sentences_count() -> None:
    query = " ".join(f"Sentence {number}." for number in range(20))
    assert query_sentences(query) == [query, *(f"Sentence {n}." for n in range(12, 20))]


@pytest.fixture(scope="module")
async def pipeline(weights: Weights) -> Pipeline:
    """A pipeline with an empty bank, and one with the facts."""
    pipeline = Pipeline(weights)
    gateway = pipeline.gateway()
    for bank in ("empty", "facts"):
        await gateway.CreateBank(larimar_pb2.CreateBankRequest(bank=bank))
    for fact_id, prompt, answer in FACTS:
        await gateway.Write(
            larimar_pb2.WriteRequest(bank="facts", fact_id=fact_id, prompt=prompt, answer=answer)
        )
    return pipeline


@pytest.fixture(scope="module")
async def door(pipeline: Pipeline):
    """A channel to the scope service."""
    async with served("scope", pipeline.servicers["scope"]) as address:
        yield channel_stub("scope", address)


async def detections(door, *queries: str, bank: str = "facts", min_version: int = 0):
    request = scope_pb2.DetectRequest(bank=bank, queries=queries, min_version=min_version)
    return await door.Detect(request)


async def test_a_written_prompt_is_in_scope_and_another_matter_is_not(door) -> None:
    reply = await detections(door, *(prompt for _, prompt, _ in FACTS), ELSEWHERE)
    assert reply.version == len(FACTS)
    for found, (fact_id, _, _) in zip(reply.detections, FACTS, strict=False):
        assert found.in_scope and found.fact_id == fact_id
        assert found.score == pytest.approx(1.0, abs=1e-4)
    outside = reply.detections[-1]
    assert not outside.in_scope and outside.score < reply.threshold
    assert outside.fact_id in {fact_id for fact_id, _, _ in FACTS}


async def test_the_best_of_several_sentences_decides(door) -> None:
    sentences = ["The weather was mild.", "We had soup.", FACTS[2][1] + "."]
    query = " ".join(sentences)
    together, *each = (await detections(door, query, *sentences)).detections
    assert together.score == max(one.score for one in each)
    assert together.fact_id == "bridge" and together.in_scope
    assert not each[0].in_scope and not each[1].in_scope


async def test_a_query_is_answered_as_it_would_be_alone(door) -> None:
    queries = [FACTS[0][1], "The weather was mild. " + FACTS[1][1], ELSEWHERE, "Velmora's capital"]
    together = (await detections(door, *queries)).detections
    for query, found in zip(queries, together, strict=True):
        assert (await detections(door, query)).detections[0] == found


@pytest.mark.parametrize(("change", "in_scope"), [(0.0, True), (1e-9, False), (-1e-9, True)])
async def test_a_score_at_the_threshold_is_in_scope(
    pipeline: Pipeline, weights: Weights, change: float, in_scope: bool
) -> None:
    query = "Which city is the seat of Velmora's government"
    async with pipeline.follower.state("default", "facts") as state:
        ((score, _),) = state.detect(weights.embedder.embed([query]))
    service = ScopeService(
        weights.embedder,
        Follower(pipeline.log, ("scope",), STATE_BUDGET),
        ScopeDetector(score + change),
        weights.folder.config.fixed_point.scope_bits,
    )
    request = scope_pb2.DetectRequest(bank="facts", queries=[query])
    (found,) = (await service.Detect(request, None)).detections
    assert found.in_scope == in_scope


async def test_nothing_is_in_the_scope_of_an_empty_bank(door) -> None:
    reply = await detections(door, FACTS[0][1], "Two. Sentences.", bank="empty")
    assert reply.version == 0
    for found in reply.detections:
        assert (found.in_scope, found.score, found.fact_id) == (False, -1.0, "")
    assert not (await detections(door, bank="empty")).detections


@pytest.mark.parametrize(
    ("error", "reason", "arguments"),
    [
        (InvalidArgument, "EMPTY_TEXT", {"queries": [ELSEWHERE, " "]}),
        (InvalidArgument, "TEXT_TOO_LONG", {"queries": ["word " * 300]}),
        (InvalidArgument, "TOO_MANY_ITEMS", {"queries": ["a"] * (MAX_TEXTS + 1)}),
        (NotFound, "UNKNOWN_BANK", {"queries": ["a"], "bank": "nowhere"}),
        (FailedPrecondition, "VERSION_NOT_WRITTEN", {"queries": ["a"], "min_version": 99}),
    ],
)
async def test_a_bad_request_is_named(door, error, reason: str, arguments: dict) -> None:
    with pytest.raises(error) as caught:
        await door.Detect(scope_pb2.DetectRequest(**{"bank": "facts"} | arguments))
    assert type(caught.value) is error and caught.value.reason == reason


async def test_embeddings_cross_the_wire_as_they_are(door, embedder: SentenceEmbedder) -> None:
    reply = await door.Embed(scope_pb2.EmbedRequest(texts=POOL[:4]))
    assert b"".join(reply.embeddings) == embedder.embed(POOL[:4]).tobytes()
    assert reply.scope_digest == embedder.digest
    described = await door.DescribeScope(scope_pb2.DescribeScopeRequest())
    assert described.scope_digest == embedder.digest
    assert described.scope_size == embedder.size


def field_names(message) -> set[str]:
    """Names of a message's fields, those of the messages in it too."""
    names = set()
    for field in message.fields:
        names.add(field.name)
        if field.message_type is not None:
            names |= field_names(field.message_type)
    return names


def test_a_detect_request_has_no_place_for_a_candidate_answer() -> None:
    context = {"tenant", "deadline_unix_s", "traceparent", "tracestate"}
    assert field_names(scope_pb2.DetectRequest.DESCRIPTOR) == context | {
        "bank",
        "queries",
        "min_version",
        "at_version",
        "allow_stale",
        "context",
    }


async def test_the_detector_is_shown_the_prompt_alone(pipeline: Pipeline) -> None:
    """What the gateway sends to scope when it scores candidates, and when it asks."""
    seen = []

    async def noted(request, call):
        seen.append(request)
        return await call(request)

    gateway = pipeline.gateway(scope=Door(pipeline.doors["scope"], Detect=noted))
    prompt, candidates = FACTS[0][1], [" Tarsin", " Ostrel"]
    await gateway.Score(
        larimar_pb2.ScoreRequest(bank="facts", prompt=prompt, candidates=candidates)
    )
    async for _ in gateway.Ask(
        larimar_pb2.AskRequest(bank="facts", prompt=prompt, sampling={"max_tokens": 1})
    ):
        pass
    assert [list(request.queries) for request in seen] == [[prompt], [prompt]]
    assert all(b"Tarsin" not in request.SerializeToString() for request in seen)
