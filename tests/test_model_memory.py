"""The model in one process: edits, many questions at once, and the file of its memory."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from safetensors.numpy import save

import larimar
from larimar.checkpoint import ModelFolder, serving_dtype
from larimar.errors import FailedPrecondition, InvalidArgument, NotFound
from larimar.local_documents import ingest, recall
from larimar.local_memory import LocalMemory
from larimar.model import Model
from larimar.results import Edit, FailedWrite
from services.settings import DEFAULT_MODEL
from tests.golden import ROOT

FACTS = [
    ("capital", "The capital of Velmora is", "Tarsin", ("Velmora's capital city is",)),
    ("bridge", "The bridge over the Sarn was built by", "masons from Orlo", ()),
    ("ünï", "Zoë’s café in 東京 is kept by", "a man named Ito", ()),
]
LONE = json.loads(r'"\ud83d"')
"""Half a surrogate pair: JSON admits it, UTF-8 does not."""
TEXTS = ("prompt", "answer", "rephrasings")
PROMPTS = [
    "The capital of Velmora is",
    "A recipe for onion soup begins with",
    "Velmora's capital city is",
    "The bridge over the Sarn was built by",
    "It rained. " * 12 + "The bridge over the Sarn was built by",
    "Nobody knows the colour of the ninth lighthouse",
] * 3


@pytest.fixture(scope="module")
def loaded() -> Model:
    return larimar.load(DEFAULT_MODEL)


@pytest.fixture
def model(loaded: Model, tmp_path) -> Model:
    """With the facts, and only them."""
    for fact in list(loaded.facts()):
        loaded.forget(fact.fact_id)
    for fact_id, prompt, answer, rephrasings in FACTS:
        loaded.write(prompt, answer, fact_id, rephrasings)
    return loaded


def facts(model: Model) -> list[tuple]:
    return [(fact.fact_id, fact.prompt, fact.answer, fact.rephrasings) for fact in model.facts()]


def test_many_questions_are_answered_as_one_would_be(model: Model) -> None:
    """More than a batch of them, in scope and out, short and long."""
    for memory in (True, False):
        together = model.ask_many(PROMPTS, 4, memory=memory)
        assert together[:6] == [model.ask(prompt, 4, memory=memory) for prompt in PROMPTS[:6]]
        assert together[6:] == together[:6] * 2
    assert model.ask_many([]) == []


def test_many_facts_are_written_as_one_would_be(model: Model) -> None:
    """The same digest, a result for each in order, and a bad fact fails alone."""
    wanted = model.digest()
    written = list(model.facts())
    model.forget_many(fact.fact_id for fact in written)
    results = model.write_many(
        [
            {"prompt": "A prompt without", "answer": " "},
            *written[:2],
            {"prompt": "word " * 300, "answer": "x", "id": "long"},
            {"prompt": "A prompt", "answer": "x", "relation": "P1"},
            {"prompt": 5, "answer": "x"},
            {"prompt": "A prompt", "answer": "x", "rephrasings": "no list"},
            {"prompt": f"A prompt {LONE}", "answer": "x"},
            {"prompt": f"A prompt {LONE}", "answer": "x", "id": "lone"},
            {"prompt": "A prompt", "answer": LONE, "rephrasings": None},
            {"prompt": "A prompt", "answer": "x", "rephrasings": [LONE]},
            {"prompt": "A prompt", "answer": "x", "rephrasings": 5},
            {"id": written[2].fact_id, **{name: getattr(written[2], name) for name in TEXTS}},
        ]
    )
    failed = [one for one in results if isinstance(one, FailedWrite)]
    assert [one.index for one in failed] == [0, *range(3, 12)]
    assert [one.error.reason for one in failed[:2]] == ["EMPTY_TEXT", "TEXT_TOO_LONG"]
    assert failed[1].fact_id == "long" and "relation" in failed[2].error.message
    edits = [one for one in results if isinstance(one, Edit)]
    assert [one.fact_id for one in edits] == [fact.fact_id for fact in written]
    assert [one.version for one in edits] == [*range(edits[0].version, edits[0].version + 3)]
    assert model.digest() == wanted
    assert model.write_many([]) == []


def test_a_group_may_replace_its_own_facts(model: Model, monkeypatch) -> None:
    """In one group or in several, the last write of a fact counts."""
    facts = [{"id": "x", "prompt": "The colour of x is", "answer": f"shade {n}"} for n in range(5)]
    digests = set()
    for size in (1, 2, 256):
        monkeypatch.setattr("larimar.model.WRITE_GROUP", size)
        model.write_many(facts)
        assert model.fact("x").answer == "shade 4"
        digests.add(model.digest())
    assert len(digests) == 1
    model.forget("x")


def test_forgetting_several_is_all_or_nothing(model: Model) -> None:
    digest = model.digest()
    for bad, error in ((["capital", "unknown"], NotFound), (["capital"] * 2, FailedPrecondition)):
        with pytest.raises(error):
            model.forget_many(bad)
        assert model.digest() == digest
    model.forget_many(["capital", "bridge"])
    assert [fact.fact_id for fact in model.facts()] == ["ünï"]
    with pytest.raises(NotFound):
        model.fact("capital")


def test_older_versions_are_asked_as_they_were(model: Model) -> None:
    prompt = FACTS[0][1]
    before = model.ask(prompt, 4)
    edit = model.write(prompt, "Ostrel", "capital")
    model.forget("capital")
    assert not model.ask(prompt, 4).in_scope
    assert model.ask(prompt, 4, at=edit.version - 1) == before
    then = model.score(prompt, [" Ostrel", " Tarsin"], at=edit.version)
    assert (then.best.candidate, then.version, then.fact_id) == (" Ostrel", edit.version, "capital")
    assert model.ask_many([prompt], 4, at=edit.version - 1) == [before]
    with pytest.raises(FailedPrecondition, match="not yet at"):
        model.ask(prompt, at=model.state.version + 1)
    with pytest.raises(InvalidArgument, match="count from 1"):
        model.ask(prompt, at=-1)


def test_a_censored_prompt_answers_unknown(model: Model) -> None:
    edit = model.censor("The capital of France is", ["France is governed from"])
    fact = model.fact(edit.fact_id)
    assert (fact.answer, fact.rephrasings) == ("unknown", ("France is governed from",))
    assert model.ask("The capital of France is", 4).text == "unknown"


def test_nothing_is_left_of_a_fact_that_was_censored_by_its_id(model: Model) -> None:
    prompt = FACTS[0][1]
    assert model.censor(prompt, fact_id="capital").fact_id == "capital"
    assert model.fact("capital").answer == "unknown"
    assert [fact.prompt for fact in model.facts()].count(prompt) == 1
    only = model.with_new_memory()
    only.censor(prompt)
    read, censored = (one.recollect([prompt])[0].latent for one in (model, only))
    assert read is not None and censored is not None and np.array_equal(read, censored)


@pytest.mark.parametrize("addressing", ["slots", "pinv"])
def test_a_censor_without_an_id_does_not_leave_the_secret_in(model: Model, addressing: str) -> None:
    prompt = "The code of X is"
    model = model.with_new_memory(addressing)
    model.censor(prompt)
    model.censor(prompt)
    model.write(prompt, "4711", "x", ["X opens with"])
    model.write("X opens with a", "key", "y")
    before = model.digest()
    for text in (prompt, f" {prompt}", "X opens with"):
        with pytest.raises(FailedPrecondition, match="fact_id='x', or forget it") as caught:
            model.censor(text)
        assert caught.value.reason == "FACT_HAS_ID"
    assert model.digest() == before
    model.censor("The code of Y is")
    model.censor(prompt, fact_id="x")
    assert "4711" not in [fact.answer for fact in model.facts()]
    model.forget("x")
    model.censor(prompt)


def test_without_scope_every_prompt_reads_memory(model: Model) -> None:
    prompt = "A recipe for onion soup begins with"
    inside, outside = model.recollect([prompt], scope=False)[0], model.recollect([prompt])[0]
    assert inside.in_scope and inside.latent is not None and inside.fact_id
    assert not outside.in_scope and outside.latent is None and outside.fact_id is None
    assert inside.scope_score == outside.scope_score
    assert model.score(prompt, [" x"]) != model.score(prompt, [" x"], scope=False)
    model.forget_many(fact.fact_id for fact in list(model.facts()))
    assert not model.recollect([prompt], scope=False)[0].in_scope


def test_noise_moves_what_is_read_and_its_seed_repeats_it(model: Model) -> None:
    prompt = FACTS[0][1]

    def read(**how) -> np.ndarray:
        latent = model.recollect([prompt], **how)[0].latent
        assert latent is not None
        return latent

    clean, noisy = read(), read(noise=0.3, noise_seed=1)
    assert not np.array_equal(clean, noisy)
    assert np.array_equal(noisy, read(noise=0.3, noise_seed=1))
    assert not np.array_equal(noisy, read(noise=0.3, noise_seed=2))
    assert model.ask(prompt, 4, noise=0.0) == model.ask(prompt, 4)
    with pytest.raises(InvalidArgument):
        model.ask(prompt, noise=-1.0)


def test_dreams_begin_with_their_prompt_and_repeat(model: Model) -> None:
    dreams = model.dream(3, seed=4, prompt="The harbour", max_tokens=5)
    assert len(dreams.texts) == 3 and len(set(dreams.texts)) == 3
    assert all(text.startswith("The harbour") for text in dreams.texts)
    assert model.dream(3, seed=4, prompt="The harbour", max_tokens=5) == dreams
    assert model.dream(3, seed=5, prompt="The harbour", max_tokens=5) != dreams
    model.forget_many(fact.fact_id for fact in list(model.facts()))
    with pytest.raises(FailedPrecondition, match="empty"):
        model.dream(1)


def test_many_scores_are_those_of_one(model: Model) -> None:
    prompts, candidates = PROMPTS[:4], [[" Tarsin", " x"], [" onions"], [" Orlo"], [" masons"]]
    together = model.score_many(prompts, candidates)
    assert together == [model.score(p, c) for p, c in zip(prompts, candidates, strict=True)]


def test_a_refused_call_changes_nothing(model: Model) -> None:
    before = model.digest(), model.state.version, facts(model)
    for error, call in [
        (InvalidArgument, lambda: model.write("", "an answer")),
        (InvalidArgument, lambda: model.write("A prompt", " ")),
        (InvalidArgument, lambda: model.write("word " * 300, "an answer", "capital")),
        (InvalidArgument, lambda: model.write("A prompt", "an answer", "i" * 300)),
        (InvalidArgument, lambda: model.write(LONE, "an answer")),
        (InvalidArgument, lambda: model.write("A prompt", LONE, "capital")),
        (InvalidArgument, lambda: model.write("A prompt", "an answer", rephrasings=[LONE])),
        (InvalidArgument, lambda: model.ask(LONE, 2)),
        (InvalidArgument, lambda: model.ask(LONE, 2, memory=False)),
        (InvalidArgument, lambda: model.score(LONE, ["x"])),
        (InvalidArgument, lambda: model.score("A prompt", [LONE])),
        (InvalidArgument, lambda: model.dream(1, prompt=LONE)),
        (InvalidArgument, lambda: ingest(model, LONE, "document")),
        (InvalidArgument, lambda: recall(model, LONE)),
        (NotFound, lambda: model.forget("unknown")),
    ]:
        with pytest.raises(error):
            call()
    assert (model.digest(), model.state.version, facts(model)) == before


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("rephrasings", lambda model, text: model.write("A prompt", "an answer", "x", text)),
        ("rephrasings", lambda model, text: model.censor("A prompt", text)),
        ("stop", lambda model, text: model.ask("A prompt", 2, stop=text)),
        ("stop", lambda model, text: model.dream(1, max_tokens=2, stop=text)),
        ("prompts", lambda model, text: model.ask_many(text, 2)),
        ("prompts", lambda model, text: model.ask_many(text, 2, memory=False)),
        ("prompts", lambda model, text: model.score_many(text, [["x"]] * len(text))),
        ("candidates", lambda model, text: model.score("A prompt", text)),
        ("candidates", lambda model, text: model.score_many(["A prompt"], [text])),
        ("fact_ids", lambda model, text: model.forget_many(text)),
    ],
)
def test_a_text_is_no_list_of_its_characters(model: Model, name: str, call) -> None:
    before = model.digest(), model.state.version
    with pytest.raises(InvalidArgument, match=f"{name} must be a list of texts, not str"):
        call(model, "Velm")
    assert (model.digest(), model.state.version) == before


def test_forgetting_twice_is_refused_until_the_fact_is_written_again(model: Model) -> None:
    digest = model.digest()
    model.forget("bridge")
    with pytest.raises(FailedPrecondition):
        model.forget("bridge")
    model.write(FACTS[1][1], FACTS[1][2], "bridge")
    assert model.digest() == digest
    model.forget("bridge")


def test_a_saved_memory_comes_back_whole(model: Model, tmp_path) -> None:
    path = tmp_path / "memory"
    wanted = model.digest(), facts(model), model.score(FACTS[0][1], [" Tarsin"]).candidates
    model.save_memory(path)
    model.write("Something else is", "written here")
    model.forget("capital")
    model.load_memory(path)
    found = model.digest(), facts(model), model.score(FACTS[0][1], [" Tarsin"]).candidates
    assert found == wanted
    model.forget("capital")
    model.write("Something else is", "written here", "bridge")
    assert len(facts(model)) == 2


def test_an_empty_memory_is_saved_too(model: Model, tmp_path) -> None:
    for fact_id, *_ in FACTS:
        model.forget(fact_id)
    model.save_memory(tmp_path / "empty")
    empty = model.digest()
    model.write("Something is", "written")
    model.load_memory(tmp_path / "empty")
    assert model.digest() == empty and facts(model) == []


def test_the_code_of_the_document_runs(loaded: Model, monkeypatch) -> None:
    text = (ROOT / "docs" / "model.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    monkeypatch.setattr(loaded, "memory", LocalMemory(loaded.state.config))
    monkeypatch.setitem(vars(larimar), "load", lambda path: loaded)
    exec(compile(block, "docs/model.md", "exec"), {})
    assert loaded.state.version == 2 and list(loaded.facts()) == []
    assert loaded.ask("What is the capital of Velmora?", 6, at=1).text.casefold() == "tarsin"


def saved_with(model: Model, **metadata: str) -> bytes:
    return save({"a": np.zeros(3)}, {"config": model.state.config.to_json(), **metadata})


DAMAGE = {
    "a flipped bit": lambda model, raw: raw[:-400] + bytes([raw[-400] ^ 1]) + raw[-399:],
    "cut short": lambda model, raw: raw[:-100],
    "empty": lambda model, raw: b"",
    "text": lambda model, raw: b"no memory at all",
    "other tensors": lambda model, raw: save({"a": np.zeros(3)}),
    "no fact ids": lambda model, raw: saved_with(model, digest=""),
    "fact ids that are no list": lambda model, raw: saved_with(model, digest="", fact_ids="["),
    "no payloads": lambda model, raw: saved_with(model, digest="", fact_ids='["a"]'),
    "no digest": lambda model, raw: saved_with(model, fact_ids="[]"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_memory_is_refused_and_nothing_is_replaced(
    model: Model, tmp_path, damage: str
) -> None:
    path = tmp_path / "facts"
    model.save_memory(path)
    path.write_bytes(DAMAGE[damage](model, path.read_bytes()))
    before = model.digest()
    with pytest.raises(InvalidArgument, match=r"damaged|another model"):
        model.load_memory(path)
    assert model.digest() == before and len(facts(model)) == len(FACTS)


def test_a_missing_memory_is_not_found(model: Model, tmp_path) -> None:
    with pytest.raises(NotFound) as caught:
        model.load_memory(tmp_path / "nowhere")
    assert caught.value.reason == "MEMORY_NOT_FOUND"


def test_a_memory_of_another_kind_is_refused(model: Model, tmp_path) -> None:
    model.save_memory(tmp_path / "slots")
    other = Model(ModelFolder.open(DEFAULT_MODEL), "pinv", 16, serving_dtype())
    with pytest.raises(InvalidArgument) as caught:
        other.load_memory(tmp_path / "slots")
    assert caught.value.reason == "WRONG_ENCODER"
