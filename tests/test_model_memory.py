"""The model in one process: edits, many questions at once, and the file of its memory."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save

import larimar
from larimar.checkpoint import ModelFolder, serving_dtype
from larimar.errors import FailedPrecondition, InvalidArgument, NotFound
from larimar.model import Model
from services.settings import DEFAULT_MODEL

FACTS = [
    ("capital", "The capital of Velmora is", "Tarsin", ("Velmora's capital city is",)),
    ("bridge", "The bridge over the Sarn was built by", "masons from Orlo", ()),
    ("ünï", "Zoë’s café in 東京 is kept by", "a man named Ito", ()),
]
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


def test_a_refused_call_changes_nothing(model: Model) -> None:
    before = model.digest(), model.state.version, facts(model)
    for error, call in [
        (InvalidArgument, lambda: model.write("", "an answer")),
        (InvalidArgument, lambda: model.write("A prompt", " ")),
        (InvalidArgument, lambda: model.write("word " * 300, "an answer", "capital")),
        (InvalidArgument, lambda: model.write("A prompt", "an answer", "i" * 300)),
        (NotFound, lambda: model.forget("unknown")),
    ]:
        with pytest.raises(error):
            call()
    assert (model.digest(), model.state.version, facts(model)) == before


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
