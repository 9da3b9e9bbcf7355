"""The benchmarks of the mathematics: their programs, their judgements and their figures."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import drift, forgetting, latents, recall, ridge
from benchmarks.__main__ import NAMES, draw, measured, shown
from benchmarks.curves import CurveReport, curve
from benchmarks.latents import Latents
from larimar.cli.processes import checkout_root
from larimar.defaults import ALPHA
from larimar.errors import NotFound
from larimar.memory import BankState

MINE = ("ridge", "drift", "forgetting", "recall")
PNG = b"\x89PNG\r\n\x1a\n"


def made_up(count: int, seed: int = 0) -> Latents:
    """Random latents; a rephrasing lies near its prompt."""
    rng = np.random.default_rng(seed)
    prompts = rng.standard_normal((count, 24)).astype(np.float32)
    near = prompts + 0.05 * rng.standard_normal(prompts.shape).astype(np.float32)
    values = rng.standard_normal((count, 12)).astype(np.float32)
    return Latents(prompts, near, values, prompt_bits=14, value_bits=13)


# What they share


def test_a_record_becomes_an_edit_with_a_clean_paraphrase() -> None:
    record = {
        "requested_rewrite": {
            "prompt": "The mother tongue of {} is",
            "subject": "Ana Bree",
            "target_new": {"str": "Marnish"},
        },
        "paraphrase_prompts_clean": ["Ana Bree, speaker of", "Ana Bree speaks"],
    }
    assert latents.edit_text(record) == latents.EditText(
        "The mother tongue of Ana Bree is", "Marnish", "Ana Bree, speaker of"
    )


def test_without_data_the_benchmarks_say_what_is_missing(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("LARIMAR_DATA", str(tmp_path))
    for read in (latents.edit_texts, recall.events):
        with pytest.raises(NotFound, match="LARIMAR_DATA"):
            read(3)


def test_the_nearest_value_is_that_of_the_largest_cosine() -> None:
    values = np.array([[1.0, 0.0], [3.0, 3.0], [0.0, 0.5]])
    read = np.array([[0.1, 0.0], [0.2, 0.21], [-0.1, 9.0], [0.0, 0.0]])
    assert latents.nearest_values(read, values).tolist() == [0, 1, 2, -1]


def test_a_curve_is_in_order_of_x_and_of_its_names_only() -> None:
    points = [{"x": x, "y": -x, "of": of} for x, of in ((2, "a"), (1, "a"), (3, "b"))]
    assert curve(points, "x", "y", of="a") == ([1, 2], [-1, -2])


def test_numbers_are_shown_in_a_few_digits() -> None:
    assert [shown(one) for one in (0.12345, 1234.5, 1e30, 0.0)] == ["0.1235", "1,234", "1e+30", "0"]


# Ridge


def test_each_memory_is_read_with_each_ridge_and_the_best_is_named() -> None:
    facts = made_up(40)
    report = CurveReport({})
    for addressing in ridge.ADDRESSINGS:
        report.points += ridge.fixed_size_points(facts, addressing, 16, (8, 16, 40))
    report.points += ridge.slots_points(facts, (8, 16, 40))
    assert len(report.points) == (2 * len(ridge.RIDGES) + 1) * 3
    slots = curve(report.points, "facts", "exact", addressing="slots")
    assert slots == ([8, 16, 40], [1.0, 1.0, 1.0])
    _, least = curve(report.points, "facts", "exact", addressing="pinv", ridge=1e-6)
    assert least[0] == 1.0 > least[2]  # 8 facts of 16 slots interpolate, 40 do not
    for addressing in ridge.ADDRESSINGS:
        ridge.judge(report, addressing, 16)
    best = report.compared["pinv: best ridge near the peak"]["value"]
    assert best in ridge.RIDGES
    worst = {one: report.compared[f"pinv, ridge {one:g}: rephrased, worst near the peak"]["value"]
             for one in ridge.RIDGES}  # fmt: skip
    assert worst[best] == max(worst.values())


def test_a_memory_that_grew_reads_as_one_written_at_once() -> None:
    facts = made_up(30)
    grown = ridge.fixed_size_points(facts, "pinv", 16, (10, 30))[-len(ridge.RIDGES) :]
    assert grown == ridge.fixed_size_points(facts, "pinv", 16, (30,))


def test_prompts_that_share_a_reference_row_are_counted() -> None:
    facts = made_up(16)
    rows, share = ridge.crowding(facts, "gaussian", 16)
    assert 1 <= rows <= 16 and 1 / 16 <= share <= 1 - (rows - 1) / 16
    same = Latents(*(np.repeat(one[:1], 16, 0) for one in
                     (facts.prompts_ND, facts.rephrased_ND, facts.values_NC)), 14, 13)  # fmt: skip
    assert ridge.crowding(same, "gaussian", 16) == (1, 1.0)


def test_the_facts_that_are_asked_for_are_spread_evenly() -> None:
    assert ridge.asked_places(5).tolist() == [0, 1, 2, 3, 4]
    places = ridge.asked_places(10 * ridge.QUERIES)
    assert len(places) == ridge.QUERIES and (places[0], places[-1]) == (0, 10 * ridge.QUERIES - 1)


# Drift


def test_programs_forget_only_what_is_live_and_stay_in_bounds() -> None:
    live: set[int] = set()
    for sign, places in drift.program(400, seed=3):
        assert 1 <= len(places) == len(set(places)) <= drift.MOST_AT_ONCE
        assert live.isdisjoint(places) if sign > 0 else live.issuperset(places)
        live = live | set(places) if sign > 0 else live - set(places)
        assert len(live) <= drift.MOST_LIVE
    assert drift.program(50, seed=3) == drift.program(400, seed=3)[:50]
    assert drift.program(50, seed=4) != drift.program(50, seed=3)


def test_the_recursion_drifts_and_the_sums_do_not() -> None:
    points = drift.drift_points(seed=0, steps=80, every=40)
    ours = [point for point in points if point["of"] == "exact sums"]
    assert [point["error"] for point in ours] == [0.0, 0.0]
    assert all(point["sha256"] == point["sha256_of_live"] for point in ours)
    assert ours[0]["sha256"] != ours[1]["sha256"]
    last = {p["of"]: p["error"] for p in points if p["step"] == 80 and p["ridge"] == 1e-2}
    assert 0 < last["float64"] < 1e-9 < last["float32"]


@pytest.mark.parametrize("fill", [0.25, 1.5])
def test_an_interpolating_recursion_does_not_forget_and_the_sums_do(fill: float) -> None:
    point = drift.forget_point(fill)
    assert point["equal_to_never_written"]
    assert point["exact sums"] == point["never written"] > 0.1
    assert (point["recursion"] < 1e-9) == (fill <= 1)


def test_a_distance_that_is_no_number_is_reported_as_broken() -> None:
    one = torch.ones(2)
    assert drift.apart(one, one) == 0
    assert drift.apart(one * torch.nan, one) == drift.apart(one * 1e38, one * 1e-30) == drift.BROKEN


# Forgetting


@pytest.mark.parametrize("addressing", forgetting.ADDRESSINGS)
@pytest.mark.parametrize("count", [1, 16, 32])
def test_a_bank_that_forgot_is_one_that_never_had_the_facts(addressing: str, count: int) -> None:
    point = forgetting.forgetting_point(made_up(count), addressing, 16, count)
    assert point["equal_to_never_written"]
    assert point["forgotten_after"] == point["never"]
    assert point["forgotten"] == len(range(0, count, forgetting.FORGET_EVERY))
    assert (point["retained"] is None) == (count == 1)
    if addressing == "slots":
        assert (point["forgotten_before"], point["forgotten_after"]) == (1.0, 0.0)


def test_a_bank_that_kept_a_fact_would_be_found_out() -> None:
    facts = made_up(8)
    config = facts.config("slots", 0)
    payloads = latents.payloads(config, facts, 8)
    bank = BankState(config, ("memory",))
    latents.written(bank, payloads)
    latents.forgotten(bank, payloads[:1])
    places = np.arange(2)
    assert forgetting.recalled(bank, facts, places, facts.values_NC) == 0.5
    assert not forgetting.readouts(BankState(config, ("memory",)), facts, places).any()


# Recall


def test_passages_are_found_by_themselves_and_a_share_by_others() -> None:
    facts = made_up(40)
    found = recall.found(facts.prompts_ND, facts.values_NC, facts.prompts_ND)
    assert found == {"recursive": 1.0, "flat": 1.0}
    turned = np.roll(facts.prompts_ND, 1, axis=0)
    assert recall.found(facts.prompts_ND, facts.values_NC, turned) == {"recursive": 0, "flat": 0}
    assert ALPHA < 1


def test_a_beginning_has_three_words_or_its_share() -> None:
    passage = " ".join(str(n) for n in range(10))
    assert recall.beginning(passage, 0.5) == "0 1 2 3 4"
    assert recall.beginning(passage, 0.1) == "0 1 2"


# The figures


def test_the_figures_of_the_documents_are_drawn_from_the_numbers_beside_them(tmp_path) -> None:
    folder = checkout_root() / "docs" / "figures"
    for name in MINE:
        document = json.loads((folder / f"{name}.json").read_text())
        assert document["name"] == name and not document["results"]["quick"]
        draw(name, document, tmp_path / f"{name}.png")
        for drawn in (tmp_path / f"{name}.png", folder / f"{name}.png"):
            assert drawn.read_bytes().startswith(PNG)
            assert drawn.stat().st_size < 120_000
    assert set(MINE) <= set(NAMES)


def test_a_benchmark_without_curves_has_no_figure(tmp_path) -> None:
    draw("decode", {}, tmp_path / "decode.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", MINE)
def test_a_quick_run_gives_numbers_and_a_figure(name: str, tmp_path, monkeypatch) -> None:
    """In this process; that the command writes what it measured is in tests/test_benchmarks.py."""
    data = Path(os.environ.get("LARIMAR_DATA") or checkout_root().parent / "shared" / "data")
    if name != "drift" and not (data / latents.RECORDS).is_file():
        pytest.skip(f"no {latents.RECORDS}: set LARIMAR_DATA to the folder of the evaluation data")
    monkeypatch.setenv("LARIMAR_DATA", str(data))
    document = measured(name, quick=True, use_ray=False)
    assert json.loads(json.dumps(document), parse_constant=pytest.fail) == document
    draw(name, document, tmp_path / f"{name}-quick.png")
    assert document["results"]["points"] and document["results"]["compared"]
    assert (tmp_path / f"{name}-quick.png").read_bytes().startswith(PNG)
