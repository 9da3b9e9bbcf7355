"""The training choices side by side: what they share, what is kept, what the table says."""

from __future__ import annotations

import dataclasses
import json
import sys

import pytest

from larimar.errors import InvalidArgument
from tests.training_runs import RECORD, loop, tiny_episodic, write_corpus, write_warm_start
from training import ablations
from training.recipes import RECIPES, small


def test_every_choice_is_the_default_but_for_what_it_names() -> None:
    default = ablations.reduced("small", 0.5, 40)
    assert (default.rows_read, default.rows_direct, default.plain_blocks) == (16, 8, 6)
    assert default.steps == 40 and default.warmup_steps == 4
    for name in ablations.CHOICES:
        one = ablations.reduced(name, 0.5, 40)
        assert one.rows_read == default.rows_read and one.seed == default.seed
        assert name == "small" or one != default


def test_less_than_an_episode_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="whole episode"):
        ablations.reduced("small", 0.4, 40)
    with pytest.raises(InvalidArgument, match="episodic"):
        ablations.reduced("small_base", 0.5, 40)


def test_runs_are_compared_by_their_last_numbers(tmp_path, monkeypatch, capsys) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    warm_start = write_warm_start(tmp_path / "warm")
    records = tmp_path / "records.jsonl"
    records.write_text(json.dumps(RECORD) + "\n")
    recipe = tiny_episodic(warm_start)
    monkeypatch.setitem(RECIPES, "small", lambda: recipe)
    arguments = [
        *("ablations", "--corpus", str(corpus), "--share", "1", "--steps", "3"),
        *("--start", str(_base_of(recipe, corpus, tmp_path)), "--recipes", "small"),
        *("--eval-data", str(records), "--eval-records", "1", "--out", str(tmp_path / "out")),
    ]
    monkeypatch.setattr(sys, "argv", arguments)
    assert ablations.main() == 0
    numbers = json.loads((tmp_path / "out" / "ablations.json").read_text())["rows"]["small"]
    assert set(numbers) == set(ablations.COLUMNS)
    shown = capsys.readouterr().out
    assert f"| `small` | the default | {numbers['held_read']:.2f} |" in shown
    again = (tmp_path / "out" / "small" / "metrics.jsonl").read_text()
    assert ablations.main() == 0  # nothing is trained twice
    metrics = tmp_path / "out" / "small" / "metrics.jsonl"
    assert metrics.read_text() == again
    looked = [line for line in again.splitlines(keepends=True) if "edit_S" in line]
    assert len(looked) == 1
    metrics.write_text(again.replace(looked[0], ""))  # as if it was stopped before it looked
    assert ablations.main() == 0
    assert sorted(metrics.read_text().splitlines()) == sorted(again.splitlines())
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", [*arguments, "--share", "0.5"])
    assert ablations.main() == 1  # those are not the numbers of half the rows
    said = capsys.readouterr()
    assert (
        "rows_read" in said.err
        and "give --out another folder" in said.err
        and "| `small`" not in said.out
    )


def _base_of(recipe, corpus, tmp_path):
    """A model folder to start from: one step of the recipe itself."""
    loop(dataclasses.replace(recipe, steps=1), corpus, tmp_path / "base").run()
    return tmp_path / "base" / "model"


def test_the_default_is_the_first_choice() -> None:
    assert next(iter(ablations.CHOICES)) == "small"
    assert ablations.reduced("small", 1.0, small().steps) == small()
