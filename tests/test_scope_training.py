"""Training of isd: made-up facts, the regression, and that no evaluation set is in it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from larimar.checkpoint import ModelFolder
from larimar.errors import NotFound
from larimar.isd import FEATURES, FILE, Isd
from larimar.scope import ScopeDetector
from tests.in_process import Weights
from training.scope import Pairs, fit, main
from training.scope_pairs import FactMaker, names_in
from training.scope_templates import RELATIONS

ROOT = Path(__file__).resolve().parent.parent
FIRST = ("Anna", "Bertold", "Celine", "Dorval", "Esra", "Fintan", "Gisela", "Hagen")
LAST = ("Velmora", "Tarsin", "Ostrel", "Quillon", "Marwick", "Pellane", "Sorrento", "Ulvang")
DOINGS = ("met {} by the river", "wrote a long letter to {} in spring", "bought bread from {}")
SENTENCES = [
    f"Long before the war, {one} {last} " + doing.format(other) + " and went home at noon."
    for one in FIRST
    for last in LAST
    for doing, other in zip(DOINGS, (FIRST[0], f"{FIRST[3]} {LAST[2]}", LAST[5]), strict=True)
]


def test_names_are_found_inside_sentences() -> None:
    text = "Maria met John Smith and the Bank of Orlo, who left."
    assert names_in([text, text]) == ["John Smith", "Bank of Orlo"]


def test_a_seed_makes_the_same_facts() -> None:
    first, again, other = (FactMaker(SENTENCES, seed).facts(40) for seed in (5, 5, 6))
    assert first == again and first != other


def test_no_two_made_facts_ask_the_same() -> None:
    facts = FactMaker(SENTENCES, 0).facts(80)
    made = [(fact.subject, fact.relation) for fact in facts if fact.relation >= 0]
    assert len(made) == 60 == len(set(made))
    assert len({subject for subject, _ in made}) < 60, "some subjects have two relations"
    for fact in facts:
        assert len(fact.others) == 3
        if fact.relation >= 0:
            last = fact.subject.split()[-1].lower()
            assert all(last in text.lower() for text in (fact.prompt, *fact.others))


def test_text_without_names_is_refused() -> None:
    with pytest.raises(NotFound, match="no names"):
        FactMaker(["nothing of note happened there."], 0)


def test_templates_have_one_place_for_a_subject() -> None:
    assert all(form.count("{}") == 1 for forms in RELATIONS for form in forms)
    assert all(len(set(forms)) == len(forms) >= 4 for forms in RELATIONS)


def evaluation_templates(folder: Path) -> set[str]:
    """Every prompt of the evaluation files with its subject taken out, in small letters."""
    found = set()
    for path in sorted(folder.glob("counterfact/**/*.json*")) + sorted(folder.glob("zsre/*.json*")):
        text = path.read_text(encoding="utf-8")
        lines = json.loads(text) if text.startswith("[") else map(json.loads, text.splitlines())
        for record in lines:
            rewrite = record.get("requested_rewrite")
            named = rewrite if isinstance(rewrite, dict) else record
            subject = named.get("subject", "")
            for value in (named.get("prompt"), *record.values()):
                for prompt in value if isinstance(value, list) else [value]:
                    if isinstance(prompt, str) and subject:
                        found.add(prompt.replace(subject, "{}").strip().lower())
    return found


def test_no_template_is_one_of_the_evaluation_files() -> None:
    folder = Path(os.environ.get("LARIMAR_DATA") or ROOT.parent / "shared" / "data")
    if not (folder / "counterfact").is_dir():
        pytest.skip("no evaluation data: set LARIMAR_DATA to their folder")
    theirs = evaluation_templates(folder)
    assert len(theirs) > 1000
    assert not theirs & {form.lower() for forms in RELATIONS for form in forms}


def test_the_regression_finds_what_tells_pairs_apart() -> None:
    rng = np.random.default_rng(0)
    x_PF = rng.normal(size=(2000, len(FEATURES))) * 3 + 1
    truth_F = np.array([2.0, -1.0, 0.5, *[0.0] * (len(FEATURES) - 3)])
    label_P = rng.random(2000) < 1 / (1 + np.exp(-(x_PF @ truth_F - 1.5)))
    pairs = Pairs(x_PF, label_P, np.arange(2000))
    weight_F, bias = fit(pairs)
    assert weight_F == pytest.approx(truth_F, abs=0.3) and bias == pytest.approx(-1.5, abs=0.4)
    again_F, again = fit(pairs)
    assert again_F.tobytes() == weight_F.tobytes() and again == bias


def test_the_command_trains_a_detector_into_a_model_folder(
    weights: Weights, tmp_path: Path, capsys
) -> None:
    corpus, model = tmp_path / "corpus", tmp_path / "model"
    corpus.mkdir()
    model.mkdir()
    (corpus / "train_00.txt").write_text("\n".join(["A title", *SENTENCES]))
    shutil.copy(weights.folder.path / "config.json", model)
    arguments = ["--corpus", str(corpus), "--model", str(model), "--facts", "20"]
    assert main([*arguments, "--use-from", "0.4"]) == 0
    assert "20 made facts" in capsys.readouterr().out
    folder = ModelFolder.open(model)
    assert (folder.config.scope.detector, folder.config.scope.isd_threshold) == ("isd", 0.4)
    detector = ScopeDetector.open(folder, weights.embedder)
    assert detector.reads_prompts and detector.threshold == 0.4
    data = (model / FILE).read_bytes()
    isd = Isd.from_bytes(data, weights.embedder.tokenizer, weights.embedder.digest)
    written = "At the market Anna Velmora sells"
    same = isd.score("Anna Velmora sells at the market", 0.9, [written])
    other = isd.score("At the market Dorval Ostrel sells", 0.9, [written])
    assert same > other


def test_what_is_not_there_is_named_in_one_line(weights: Weights, tmp_path: Path, capsys) -> None:
    model = str(weights.folder.path)
    assert main(["--corpus", str(tmp_path), "--model", model, "--out", "unused"]) == 1
    assert main(["--corpus", str(tmp_path), "--model", str(tmp_path / "absent")]) == 1
    said = capsys.readouterr().err.splitlines()
    first, second = [line for line in said if line.startswith("error: ")]
    assert "train_" in first and "absent" in second
