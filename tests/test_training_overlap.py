"""No text of an evaluation is trained on."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest

from larimar.errors import InvalidArgument
from tests.golden import ROOT
from training.data import Sentences, read_lines, training_shards
from training.overlap import EvaluationText, read_evaluation
from training.rows import RowMaker

FILES = (
    "counterfact/counterfact_original_form_2000.jsonl",
    "counterfact/easyedit/counterfact-train.json",
    "counterfact/counterfact_multi_rephrase.jsonl",
    "zsre/zsre_mend_train-1k.json",
    "zsre/zsre_mend_eval_portability_gpt4.json",
    "zsre/zsre_multi_rephrase.jsonl",
)
SAMPLE_LINES = 12_000
SAMPLE_ROWS = 4_000
MOST_SHARED = 0.002
"""Share of the evaluation's runs of eight words that generic text may hold by chance."""


@pytest.fixture(scope="module")
def data() -> Path:
    folder = Path(os.environ.get("LARIMAR_DATA") or ROOT.parent / "shared" / "data")
    if not (folder / "corpus").is_dir() or not all((folder / name).is_file() for name in FILES):
        pytest.skip("no corpus beside the evaluation files: set LARIMAR_DATA to their folder")
    return folder


@pytest.fixture(scope="module")
def evaluation(data) -> EvaluationText:
    return read_evaluation([data / name for name in FILES])


def test_a_statement_is_found_in_other_case_and_punctuation() -> None:
    text = EvaluationText(["The mother tongue of Danielle Darrieux is English"], [])
    found = text.search(["Nothing.", 'So "the mother tongue of Danielle Darrieux" is: English!'])
    assert found.lines == 2 and len(found.verbatim) == 1 and len(found.shared) == 1
    assert not text.search(["The mother tongue of Danielle Darrieux is French"]).verbatim


def test_shared_runs_of_eight_words_are_counted_once() -> None:
    run = "one two three four five six seven eight"
    text = EvaluationText([], [f"{run} nine"])
    found = text.search([f"zero {run} zero", run])
    assert found.ngrams == 2 and found.shared == {run}
    assert json.loads(found.to_json())["shared"] == 1


def test_a_file_of_no_known_evaluation_is_refused(tmp_path) -> None:
    path = tmp_path / "records.json"
    path.write_text('[{"question": "Who?"}, {"text": "no"}]')
    with pytest.raises(InvalidArgument, match="record 2"):
        read_evaluation([path])


def test_no_statement_of_an_evaluation_is_in_the_corpus(data, evaluation) -> None:
    assert evaluation.count > 10_000
    lines = itertools.islice(read_lines(training_shards(data / "corpus")), SAMPLE_LINES)
    found = evaluation.search(lines)
    assert found.lines == SAMPLE_LINES
    assert found.verbatim == {}
    assert len(found.shared) < MOST_SHARED * found.ngrams


def test_no_statement_of_an_evaluation_is_in_the_rows(data, evaluation) -> None:
    sentences = Sentences.read(training_shards(data / "corpus"), SAMPLE_ROWS)
    maker, rng = RowMaker(sentences, rephrase=True), np.random.default_rng(0)
    rows = [make(rng, index) for index in range(SAMPLE_ROWS) for make in (maker.answer, maker.copy)]
    texts = [f"{row.prompt} {row.answer}" for row in rows]
    texts += [f"{row.query} {row.target}" for row in rows]
    assert evaluation.search(texts).verbatim == {}
