"""The shipped model, in one process: it says what was written, and only then."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

import larimar
from larimar.errors import InvalidArgument
from tests.golden import ROOT

MODEL = ROOT / "models" / "larimar-small"
FACTS = [json.loads(line) for line in (ROOT / "examples" / "facts.jsonl").read_text().splitlines()]
CHOSEN = FACTS[::4]


@pytest.fixture(scope="module")
def empty():
    """The shipped model with an empty memory."""
    return larimar.load(MODEL)


def test_a_detector_that_is_none_is_refused():
    with pytest.raises(InvalidArgument, match="detector 'both'"):
        larimar.load(MODEL, detector="both")


@pytest.fixture(scope="module")
def written():
    """The shipped model with every fourth example written, without its rephrasings."""
    model = larimar.load(MODEL)
    for fact in CHOSEN:
        model.write(fact["prompt"], fact["answer"], fact_id=fact["id"])
    return model


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def recall(model, prompts: list[str]) -> float:
    answers = model.ask_many(prompts, 12)
    return float(
        np.mean([words(a.text) == words(f["answer"]) for a, f in zip(answers, CHOSEN, strict=True)])
    )


def test_says_what_was_written(written) -> None:
    assert recall(written, [fact["prompt"] for fact in CHOSEN]) >= 0.75


def test_says_it_after_rephrasings_that_were_not_written(written) -> None:
    assert recall(written, [fact["rephrasings"][0] for fact in CHOSEN]) >= 0.6
    assert recall(written, [fact["rephrasings"][1] for fact in CHOSEN]) >= 0.6


def test_does_not_say_it_before(empty) -> None:
    assert recall(empty, [fact["prompt"] for fact in CHOSEN]) <= 0.05


def test_elsewhere_the_model_is_untouched_to_the_bit(empty, written) -> None:
    prompts = [fact["neighbors"][0] for fact in CHOSEN]
    outside = [p for p in prompts if not written.recollect([p])[0].in_scope]
    assert len(outside) >= 0.8 * len(prompts)
    for prompt in outside:
        ours = written.score(prompt, [" the", " London"])
        base = empty.score(prompt, [" the", " London"], memory=False)
        assert [one.token_logprobs for one in ours.candidates] == [
            one.token_logprobs for one in base.candidates
        ]


def test_forgetting_brings_the_answer_before_back(empty, written) -> None:
    fact = CHOSEN[0]
    before = empty.ask(fact["prompt"], 12).text
    digest = written.digest()
    written.forget(fact["id"])
    with pytest.raises(larimar.FailedPrecondition, match="forgotten"):
        written.forget(fact["id"])
    assert written.ask(fact["prompt"], 12).text == before
    written.write(fact["prompt"], fact["answer"], fact_id=fact["id"])
    assert written.digest() == digest


def test_the_newest_write_of_a_fact_is_the_one_that_answers(empty) -> None:
    empty.write("The keeper of the northern lighthouse is", "Henry", fact_id="keeper")
    empty.write("The keeper of the northern lighthouse is", "Alice", fact_id="keeper")
    assert words(empty.ask("The keeper of the northern lighthouse is", 12).text) == ["alice"]
    empty.forget("keeper")
    assert len(empty.state) == 0


def test_a_saved_memory_loads_and_answers_the_same(empty, written, tmp_path) -> None:
    written.save_memory(tmp_path / "memory.safetensors")
    empty.load_memory(tmp_path / "memory.safetensors")
    assert empty.digest() == written.digest()
    prompts = [fact["prompt"] for fact in CHOSEN[:8]]
    assert empty.ask_many(prompts, 12) == [
        answer.__class__(**{**_fields(answer), "version": empty.state.version})
        for answer in written.ask_many(prompts, 12)
    ]
    for fact in CHOSEN:
        empty.forget(fact["id"])
    with pytest.raises(larimar.NotFound, match="no memory file"):
        empty.load_memory(tmp_path / "none")


def _fields(answer) -> dict:
    return {name: getattr(answer, name) for name in answer.__dataclass_fields__}


@pytest.mark.parametrize(
    ("addressing", "least"),
    [("pinv", 0.5), ("gaussian", 0.2)],  # gaussian: facts that share their nearest row mix
)
def test_fixed_size_memories_answer_too(addressing, least) -> None:
    model = larimar.load(MODEL, addressing=addressing, slots=256)
    for fact in CHOSEN:
        model.write(fact["prompt"], fact["answer"], fact_id=fact["id"])
    assert recall(model, [fact["prompt"] for fact in CHOSEN]) >= least
    model.forget(CHOSEN[0]["id"])


def test_a_missing_folder_says_what_to_do(tmp_path) -> None:
    with pytest.raises(larimar.NotFound, match="larimar train"):
        larimar.load(tmp_path / "nothing")


def test_latents_leave_the_promised_headroom(empty) -> None:
    from larimar.encoder import Text
    from larimar.memory import FIXED_LIMIT

    fixed = empty.folder.config.fixed_point
    texts = [Text(fact["prompt"], fact["answer"]) for fact in FACTS[:64]]
    largest = np.abs(empty.encoder.values(texts)).max() * 2**fixed.value_bits
    assert largest * 8 < FIXED_LIMIT
    largest = np.abs(empty.encoder.prompt_latents([t.prompt for t in texts])).max()
    assert largest * 2**fixed.prompt_bits * 8 < FIXED_LIMIT
