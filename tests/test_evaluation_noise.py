"""Noise on the address: each level is drawn several times, and perplexity is that of its tokens."""

from __future__ import annotations

import math

import numpy as np
import pytest

import evaluation.noise
import larimar
from evaluation.noise import views_of
from evaluation.options import DEFAULT_MODEL
from evaluation.systems import LARIMAR, InProcess, NewFact, Query
from tests.banked_parrot import (
    BankedParrot,
    data_file,
    invoked,
    opened_parrot,
    refused,
    text_file,
)
from tests.test_evaluation_edits import values


@pytest.fixture
def files(tmp_path, monkeypatch):
    system = BankedParrot()
    monkeypatch.setattr(evaluation.noise, "opened", opened_parrot(system))
    data = data_file(tmp_path / "facts.jsonl", 3)
    text = text_file(tmp_path / "text.txt")
    return ("noise", "--data", data, "--text", text, "--out", tmp_path / "out")


def test_each_level_is_drawn_under_seeds_of_its_own():
    assert [(view.noise, view.noise_seed) for view in views_of(0.1, 3, 7)] == [
        (0.1, 7),
        (0.1, 8),
        (0.1, 9),
    ]
    assert [(view.noise, view.noise_seed) for view in views_of(0.0, 3, 7)] == [(0.0, 7)]


def test_each_prompt_has_a_draw_of_its_own_whatever_is_read_with_it():
    """Else a level would rest on as many draws as there are seeds, whatever the records."""
    system = InProcess(larimar.load(DEFAULT_MODEL, addressing="pinv", slots=8))
    facts = [NewFact(str(n), f"The capital of {name} is", "Tarsin")
             for n, name in enumerate(("Velmora", "Krenn", "Sund"))]  # fmt: skip
    system.write(facts)
    queries = [Query(fact.prompt, (), 1) for fact in facts]
    quiet = [found.latent for _, found in system.read(queries, LARIMAR)]
    (view,) = views_of(0.1, 1, 7)
    noisy = [found.latent for _, found in system.read(queries, view)]
    added = [one - other for one, other in zip(noisy, quiet, strict=True)]
    sizes = [np.abs(one).max() for one in added]
    assert min(sizes) > 0.01
    assert all(np.abs(added[0] - other).max() > 0.01 for other in added[1:])
    alone = system.read(queries[1:2], view)[0][1].latent
    assert np.array_equal(alone, noisy[1])


def test_success_falls_and_perplexity_rises_with_noise(files, tmp_path):
    arguments = (*files, "--sigmas", "0,0.5,2", "--addressing", "slots,pinv", "--slots", 2)
    report = invoked(*arguments)
    rows = {(r.get("addressing", "base"), r.get("sigma")): values(r) for r in report["rows"]}
    # The parrot is deaf past sigma 1. New targets: P 0.8 in scope, 0.2 out of it, one token each.
    for sigma, recalled, p in ((0.0, 100.0, 0.8), (0.5, 100.0, 0.8), (2.0, 0.0, 0.2)):
        found = rows["slots", sigma]
        assert (found["edit_generated"], found["paraphrase_S"]) == (recalled, recalled)
        assert found["target_perplexity"] == pytest.approx(1 / p)
    # Two of three facts are found in two slots.
    two = math.exp(-(2 * math.log(0.8) + math.log(0.2)) / 3)
    assert rows["pinv", 0.0]["target_perplexity"] == pytest.approx(two)
    # With scope off text is read with a latent: P 0.1 over two tokens against 0.2 without.
    assert rows["slots", 0.0]["text_perplexity"] == pytest.approx(10.0)
    assert rows["base", None]["text_perplexity"] == pytest.approx(5.0)
    for stem in ("noise", "noise-target-perplexity", "noise-text-perplexity"):
        assert (tmp_path / "out" / f"{stem}.png").read_bytes().startswith(b"\x89PNG")
    assert invoked(*arguments)["rows"] == report["rows"]


def test_bad_levels_are_refused(files):
    for bad in ("1,0.5", "-1,1", "inf", "nan", ""):
        assert "--sigmas takes rising numbers" in refused(*files, "--sigmas", bad)
