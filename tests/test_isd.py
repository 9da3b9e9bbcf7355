"""Internal scope detection: what it looks at, and that nothing else can change a decision."""

from __future__ import annotations

import dataclasses
import inspect
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from larimar.checkpoint import ModelFolder, add_file
from larimar.errors import DataLoss, InvalidArgument, NotFound, Unavailable
from larimar.isd import FEATURES, FILE, MOST_WEIGHT, Isd, WordReader, Words, features
from larimar.scope import ScopeDetector, query_sentences
from larimar.v1 import larimar_pb2, scope_pb2
from services.follower import Follower
from services.log import MemoryLog
from services.scope.service import MAX_LOOKS, ScopeService
from tests.in_process import STATE_BUDGET, Pipeline, Weights

VELMORA, ORLO = "The capital of Velmora is", "The capital of Orlo is"
ASKED = "Which city is the capital of Velmora?"
WEIGHTS = {"cosine": 4.0, "prompt_names_found": 6.0}
BIAS = -7.0


@pytest.fixture(scope="module")
def isd(weights: Weights) -> Isd:
    """A detector that wants a prompt's names to be in the query."""
    tokenizer = weights.embedder.tokenizer
    weight_F = np.array([WEIGHTS.get(name, 0.0) for name in FEATURES])
    reader = WordReader(tokenizer, np.full(len(tokenizer), 3.0))
    return Isd(reader, weight_F, BIAS, weights.embedder.digest)


def feature(name: str, cosine: float, query: Words, prompt: Words) -> float:
    return float(features(cosine, query, prompt)[FEATURES.index(name)])


def test_a_text_is_read_as_words_with_names_and_weights(isd: Isd) -> None:
    words = isd.reader.read("In Velmora, Zoë's X-20 costs 3.5!")
    tokens = [isd.reader._tokenizer.convert_ids_to_tokens(list(key)) for key in words.keys]
    joined = ["".join(pieces).replace("##", "") for pieces in tokens]
    assert joined == ["in", "velmora", "zoe", "s", "x", "20", "costs", "3", "5"]
    named = {word for word, name in zip(joined, words.names, strict=True) if name}
    assert named == {"velmora", "zoe", "x", "20", "3", "5"}
    for weight, key in zip(words.weights, words.keys, strict=True):
        assert weight == min(MOST_WEIGHT, 3.0 * len(key))


def test_a_common_first_word_is_no_name_and_a_rare_one_is(isd: Isd) -> None:
    assert not isd.reader.read("The capital").names[0]
    assert isd.reader.read("Velmorandia borders").names[0]


def test_the_share_of_found_words_is_weighed(isd: Isd) -> None:
    query = Words(((1,), (2,)), (1.0, 3.0), (False, True))
    prompt = Words(((2,), (3,), (4,)), (3.0, 5.0, 2.0), (True, True, False))
    expected = {
        "cosine": 0.5,
        "prompt_found": 0.3,
        "query_found": 0.75,
        "prompt_names_found": 3 / 8,
        "query_names_found": 1.0,
        "prompt_has_names": 1.0,
        "query_has_names": 1.0,
        "query_rarest_missing": 1.0 / MOST_WEIGHT,
        "query_log_words": math.log(3),
    }
    assert {name: feature(name, 0.5, query, prompt) for name in FEATURES} == pytest.approx(expected)
    nothing = Words((), (), ())
    assert feature("prompt_found", 0.0, nothing, nothing) == 1.0
    assert feature("query_rarest_missing", 0.0, nothing, prompt) == 0.0


def test_another_subject_in_the_same_words_is_told_apart(isd: Isd) -> None:
    assert isd.score(ASKED, 0.8, [VELMORA]) > 0.5 > isd.score(ORLO, 0.8, [VELMORA])


def test_a_written_prompt_is_in_scope_whatever_was_learned(isd: Isd) -> None:
    never = Isd(isd.reader, -100 * np.ones(len(FEATURES)), -100.0, isd.embedder_digest)
    assert never.score(f" {VELMORA}\n", 1.0, [ORLO, VELMORA]) == 1.0
    assert never.score(VELMORA + " now", 1.0, [ORLO, VELMORA]) < 1e-9


def test_a_fact_scores_as_its_best_prompt(isd: Isd) -> None:
    alone = [isd.score(ASKED, 0.7, [prompt]) for prompt in (VELMORA, ORLO)]
    for prompts in ([VELMORA, ORLO], [ORLO, VELMORA]):
        assert isd.score(ASKED, 0.7, prompts) == max(alone)


def test_a_saved_detector_decides_the_same(isd: Isd, weights: Weights) -> None:
    tokenizer, digest = weights.embedder.tokenizer, weights.embedder.digest
    data = isd.to_bytes()
    again = Isd.from_bytes(data, tokenizer, digest)
    assert len(data) < 100_000 and again.to_bytes() == data
    for query in (ASKED, ORLO, "soup"):
        assert again.score(query, 0.61, [VELMORA]) == isd.score(query, 0.61, [VELMORA])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:50], "damaged"),
        (lambda data: data.replace(b"query_found", b"query_fount"), "another version"),
        (lambda data: data.replace(b"larimar-isd/1", b"larimar-isd/9"), "another version"),
    ],
)
def test_a_file_that_does_not_fit_is_named(isd: Isd, weights: Weights, change, message) -> None:
    with pytest.raises(InvalidArgument, match=message):
        Isd.from_bytes(change(isd.to_bytes()), weights.embedder.tokenizer, isd.embedder_digest)


def test_a_detector_of_another_embedder_is_refused(isd: Isd, weights: Weights) -> None:
    with pytest.raises(InvalidArgument, match="another sentence-embedding model"):
        Isd.from_bytes(isd.to_bytes(), weights.embedder.tokenizer, "0" * 64)


@pytest.fixture
def folder(weights: Weights, tmp_path: Path) -> Path:
    """A model folder of which only the configuration is there."""
    shutil.copy(weights.folder.path / "config.json", tmp_path)
    return tmp_path


def test_a_model_folder_says_which_detector_decides(isd: Isd, weights: Weights, folder) -> None:
    embedder, model = weights.embedder, ModelFolder.open(folder)
    esd = ScopeDetector.open(model, embedder, "esd")
    assert not esd.reads_prompts and esd.threshold == model.config.scope.threshold
    with pytest.raises(InvalidArgument, match="choose one of esd, isd"):
        ScopeDetector.open(model, embedder, "magic")
    with pytest.raises(NotFound, match=FILE):
        ScopeDetector.open(model, embedder, "isd")
    (folder / FILE).write_bytes(isd.to_bytes())
    with pytest.raises(InvalidArgument, match="SHA-256"):
        ScopeDetector.open(model, embedder, "isd")
    before = model.encoder_digest
    add_file(folder, FILE)
    model = ModelFolder.open(folder)
    assert model.encoder_digest == before, "facts that are written stay readable"
    opened = ScopeDetector.open(model, embedder, "isd")
    assert opened.reads_prompts and opened.threshold == model.config.scope.isd_threshold
    assert opened.by_cosine().threshold == model.config.scope.threshold
    layout = dataclasses.replace(model.config.scope, detector="isd")
    model = dataclasses.replace(model, config=dataclasses.replace(model.config, scope=layout))
    assert ScopeDetector.open(model, embedder).reads_prompts


def test_the_best_sentence_decides(isd: Isd) -> None:
    detector = ScopeDetector(0.6, isd, 0.5)
    prompts = {"v": (VELMORA,), "o": (ORLO,)}
    decision = detector.decide(["x", ASKED], [(0.9, "o"), (0.8, "v")], prompts)
    assert decision.in_scope and decision.fact_id == "v"
    assert decision.score == isd.score(ASKED, 0.8, [VELMORA])
    assert detector.decide(["x"], [(-1.0, "")], {}).fact_id == ""
    by_cosine = detector.by_cosine().decide(["x", ASKED], [(0.9, "o"), (0.8, "v")], {})
    assert (by_cosine.score, by_cosine.fact_id) == (0.9, "o")


def test_a_detector_has_no_place_for_an_answer() -> None:
    assert [*inspect.signature(Isd.score).parameters] == ["self", "query", "cosine", "prompts"]
    decide = inspect.signature(ScopeDetector.decide).parameters
    assert [*decide] == ["self", "parts", "nearest", "prompts"]


class FailingLog:
    """A log whose payloads fail a number of times."""

    def __init__(self, log: MemoryLog, error: Exception, times: int) -> None:
        self._log, self._error, self.left = log, error, times

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def payloads(self, tenant: str, bank: str, versions: Any) -> list[bytes]:
        if self.left:
            self.left -= 1
            raise self._error
        return await self._log.payloads(tenant, bank, versions)


@pytest.fixture(scope="module")
async def pipeline(weights: Weights) -> Pipeline:
    """Two banks with one fact and its rephrasing each, which differ in the answer."""
    pipeline = Pipeline(weights)
    gateway = pipeline.gateway()
    for bank, answer in (("first", "Tarsin"), ("second", "Ostrel")):
        await gateway.CreateBank(larimar_pb2.CreateBankRequest(bank=bank))
        await gateway.Write(
            larimar_pb2.WriteRequest(
                bank=bank,
                fact_id="v",
                prompt=VELMORA,
                answer=answer,
                rephrasings=["Velmora is ruled from"],
            )
        )
    return pipeline


def service(pipeline: Pipeline, isd: Isd, log: Any = None) -> ScopeService:
    follower = Follower(log or pipeline.log, ("scope",), STATE_BUDGET)
    bits = pipeline.weights.folder.config.fixed_point.scope_bits
    return ScopeService(pipeline.weights.embedder, follower, ScopeDetector(0.6, isd, 0.5), bits)


async def detect(service: ScopeService, *queries: str, bank: str = "first", **fields: Any) -> Any:
    request = scope_pb2.DetectRequest(bank=bank, queries=queries, **fields)
    return await service.Detect(request, None)


QUERIES = (VELMORA, ASKED, ORLO, "It rained. " + ASKED, "Who rules Velmora?", "Tarsin", "Soup")


async def test_the_service_decides_as_the_detector_does(pipeline: Pipeline, isd: Isd) -> None:
    reply = await detect(service(pipeline, isd), *QUERIES)
    assert reply.threshold == 0.5 and reply.version == 1
    detector = ScopeDetector(0.6, isd, 0.5)
    prompts = {"v": (VELMORA, "Velmora is ruled from")}
    async with pipeline.follower.state("default", "first") as state:
        for query, found in zip(QUERIES, reply.detections, strict=True):
            parts = query_sentences(query)
            nearest = state.detect(pipeline.weights.embedder.embed(parts))
            decision = detector.decide(parts, nearest, prompts)
            assert found.in_scope == decision.in_scope and found.fact_id == "v"
            assert found.score == np.float32(decision.score)
    assert [one.in_scope for one in reply.detections[:4]] == [True, True, False, True]


async def test_the_answer_of_a_fact_decides_nothing(pipeline: Pipeline, isd: Isd) -> None:
    scope = service(pipeline, isd)
    first, second = [(await detect(scope, *QUERIES, bank=bank)) for bank in ("first", "second")]
    assert list(first.detections) == list(second.detections)


async def test_a_query_is_decided_as_it_would_be_alone(pipeline: Pipeline, isd: Isd) -> None:
    scope = service(pipeline, isd)
    together = (await detect(scope, *QUERIES)).detections
    for query, found in zip(QUERIES, together, strict=True):
        assert (await detect(scope, query)).detections[0] == found


async def test_a_fact_erased_meanwhile_is_looked_up_again(pipeline: Pipeline, isd: Isd) -> None:
    erased = DataLoss("erased", "PAYLOAD_ERASED")
    log = FailingLog(pipeline.log, erased, MAX_LOOKS - 1)
    reply = await detect(service(pipeline, isd, log), ASKED)
    assert reply.detections[0].in_scope and log.left == 0
    with pytest.raises(Unavailable) as caught:
        await detect(service(pipeline, isd, FailingLog(pipeline.log, erased, MAX_LOOKS)), ASKED)
    assert caught.value.reason == "BUSY"
    damage = FailingLog(pipeline.log, DataLoss("damage", "BAD_PAYLOAD"), 1)
    with pytest.raises(DataLoss, match="damage"):
        await detect(service(pipeline, isd, damage), ASKED)


async def test_without_the_store_the_cosine_decides_for_who_allows_it(
    pipeline: Pipeline, isd: Isd
) -> None:
    down = Unavailable("down", "STORE_DOWN")
    with pytest.raises(Unavailable):
        await detect(service(pipeline, isd, FailingLog(pipeline.log, down, 1)), ASKED)
    scope = service(pipeline, isd, FailingLog(pipeline.log, down, 1))
    reply = await detect(scope, ASKED, allow_stale=True)
    async with pipeline.follower.state("default", "first") as state:
        ((cosine, _),) = state.detect(pipeline.weights.embedder.embed([ASKED]))
    assert reply.threshold == np.float32(0.6)
    assert reply.detections[0].score == np.float32(cosine)
