"""The scope experiment: its error rates, and that it asks what it should of whom."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from evaluation.__main__ import app
from evaluation.scope import Bench, Curve, queries_of, row
from larimar.scope import ScopeDetector
from tests.in_process import Weights

SCORES = st.lists(st.integers(0, 8).map(lambda n: n / 8), min_size=1, max_size=12)


def errors(inside: list[float], outside: list[float], level: float) -> tuple[float, float]:
    """Shares, in percent, of inside queries left out and of outside queries taken in."""
    return (
        100 * float(np.mean([one < level for one in inside])),
        100 * float(np.mean([one >= level for one in outside])),
    )


@given(SCORES, SCORES)
def test_error_rates_are_those_of_counting(inside: list[float], outside: list[float]) -> None:
    curve = Curve(np.array(inside), np.array(outside))
    found = curve.rates(0.5)
    assert (found["missed"], found["taken"]) == pytest.approx(errors(inside, outside, 0.5))
    pairs = [(a > b) + (a == b) / 2 for a in inside for b in outside]
    assert found["auc"] == pytest.approx(np.mean(pairs))
    right, wrong = (sum(one >= 0.5 for one in some) for some in (inside, outside))
    assert found["f1"] == pytest.approx(2 * right / (right + wrong + len(inside)))
    rates = {level: errors(inside, outside, level) for level in {*inside, *outside}}
    nearest = min(abs(missed - taken) for missed, taken in rates.values())
    missed, taken = rates[found["eer_threshold"]]
    assert abs(missed - taken) == pytest.approx(nearest)
    assert found["eer"] == pytest.approx((missed + taken) / 2)
    assert curve.roc()[0] == [1.0, 1.0] and curve.rates(2.0)["missed"] == 100.0


@given(SCORES, SCORES, st.randoms(use_true_random=False))
def test_a_weight_counts_a_query_as_often_as_it_says(inside, outside, dice) -> None:
    curve, times = Curve(np.array(inside), np.array(outside)), []
    for some in (inside, outside):
        times.append(np.array([dice.choice([0, 1, 2]) for _ in some]))
        times[-1][0] += 1
    repeated = [np.repeat(some, n) for some, n in zip((inside, outside), times, strict=True)]
    found, wanted = curve.rates(0.5, *times), Curve(*repeated).rates(0.5)
    for name in ("missed", "taken", "f1", "auc"):
        assert found[name] == pytest.approx(wanted[name])


def test_scores_that_are_apart_have_no_error() -> None:
    found = Curve(np.array([0.7, 0.9]), np.array([0.1, 0.3, 0.6])).rates(0.65)
    assert (found["eer"], found["auc"], found["f1"], found["f1_at_eer"]) == (0.0, 1.0, 1.0, 1.0)
    assert found["eer_threshold"] == 0.7
    found = Curve(np.array([0.7, 0.9]), np.array([0.8])).rates(0.75)
    assert (found["missed"], found["taken"], found["f1"]) == (50.0, 100.0, 0.5)


def test_intervals_are_of_records_with_all_their_queries() -> None:
    """Two records of 50 queries each: one is missed whole, so a resample misses 0, 50 or 100 %."""
    inside = np.repeat([0.9, 0.1], 50)
    numbers = [0] * 50 + [1] * 50
    curve = Curve(inside, np.full(100, 0.2))
    found = row(curve, 0.5, numbers, numbers, 2, seed=0)
    missed = found["metrics"]["missed"]
    assert missed == {"value": 50.0, "low": 0.0, "high": 100.0, "n": 2}
    assert found == row(curve, 0.5, numbers, numbers, 2, seed=0)


def record(case: int, subject: str) -> dict:
    return {
        "case_id": case,
        "subject": subject,
        "prompt": f"The capital of {subject} is",
        "target_new": "Tarsin",
        "ground_truth": "Ostrel",
        "rephrase_prompt": f"It rained. {subject}'s capital city is",
        "locality_prompt": f"The river of {subject}borg flows to",
        "locality_ground_truth": "the sea",
    }


@pytest.fixture
def files(tmp_path: Path, weights: Weights) -> tuple[Path, Path, Path]:
    """Records, records to leave out, and a model folder of which the configuration is there."""
    records = [record(case, name) for case, name in enumerate(("Velmora", "Sarn", "Quillon"))]
    for name, some in (("all.json", records), ("out.json", records[2:])):
        (tmp_path / name).write_text(json.dumps(some))
    shutil.copy(weights.folder.path / "config.json", tmp_path)
    return tmp_path / "all.json", tmp_path / "out.json", tmp_path


def test_a_query_meets_its_own_fact_alone_and_all_of_them_together(weights: Weights) -> None:
    bench = Bench(weights.embedder, weights.folder.config.fixed_point.scope_bits)
    prompts = ["The capital of Velmora is", "The capital of Sarn is"]
    queries = [("The capital of Sarn is", 0), ("Soup. The capital of Velmora is", 0)]
    bench.embed([*prompts, *(text for text, _ in queries)])
    detector = ScopeDetector(0.6)
    alone = bench.scores(detector, prompts, queries, alone=True)
    together = bench.scores(detector, prompts, queries, alone=False)
    assert alone[0] < 0.9 and together[0] == pytest.approx(1.0, abs=1e-6)
    assert alone[1] == together[1] == pytest.approx(1.0, abs=1e-6)


def test_the_command_reports_curves_of_the_records_that_are_left(files) -> None:
    data, left_out, folder = files
    out = folder / "report"
    options = ["--data", data, "--without", left_out, "--facts", 2, "--model", folder, "--out", out]
    result = CliRunner().invoke(app, ["scope", *map(str, options), "--detector", "esd"])
    assert result.exit_code == 0, result.output
    body = json.loads((out / "report.json").read_text())
    assert body["n"] == 2 and (out / "scope.png").stat().st_size > 1000
    assert [(one["system"], one["facts"]) for one in body["rows"]] == [("esd", 1), ("esd", 2)]
    for one in body["rows"]:
        assert (one["inside"], one["outside"], one["metrics"]["eer"]["value"]) == (2, 2, 0.0)
        assert one["roc"][-1][0] <= one["roc"][0][0] <= 1.0
    assert "esd, 2 written" in (out / "report.md").read_text()


def test_paraphrases_are_clean_unless_wanted_as_given(files) -> None:
    from evaluation.data import read_records

    records = read_records(files[0]).records
    assert queries_of(records).inside[1] == ("It rained. Sarn's capital city is", 1)
    assert queries_of(records, as_given=True).outside[2] == ("The river of Quillonborg flows to", 2)
