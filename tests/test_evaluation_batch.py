"""Facts at once: equal questions at every size, and what a full memory loses."""

from __future__ import annotations

import pytest

import evaluation.batch
from evaluation.alone import Alone
from tests.banked_parrot import Amnesiac, BankedParrot, data_file, invoked, opened_parrot, refused
from tests.test_evaluation_edits import values


@pytest.fixture
def parrot(monkeypatch):
    system = BankedParrot()
    monkeypatch.setattr(evaluation.batch, "opened", opened_parrot(system))
    return system


def test_a_full_memory_loses_facts_and_slots_do_not(tmp_path, parrot):
    data = data_file(tmp_path / "facts.jsonl", 8)
    arguments = ("batch", "--data", data, "--out", tmp_path / "out", "--sizes", "1,2,8")
    report = invoked(*arguments, "--asked", 4, "--slots", 2, "--addressing", "slots,pinv")
    ours = [row for row in report["rows"] if row["system"] == "larimar"]
    recalled = [(r["addressing"], r["facts"], values(r)["edit_generated"]) for r in ours]
    assert recalled == [
        ("slots", 1, 100.0),
        ("slots", 2, 100.0),
        ("slots", 8, 100.0),
        ("pinv", 1, 100.0),
        ("pinv", 2, 100.0),
        ("pinv", 8, 50.0),
    ]
    assert {row["metrics"]["edit_S"]["n"] for row in report["rows"]} == {4}
    base = [row for row in report["rows"] if row["system"] == "base"]
    assert [(row["facts"], values(row)["edit_generated"]) for row in base] == [
        (1, 0.0),
        (2, 0.0),
        (8, 0.0),
    ]
    assert values(ours[0])["neighborhood_unchanged"] == 100.0
    assert parrot.banks == [("slots", 0)] * 3 + [("pinv", 2)] * 3
    # Groups of 1, of 2 and of 8, in which all four are asked.
    assert [len(facts) for facts in parrot.wrote] == 2 * [1, 1, 1, 1, 2, 2, 8]
    for stem in ("batch", "batch-edit_S", "batch-paraphrase_S", "batch-neighborhood_S"):
        assert (tmp_path / "out" / f"{stem}.png").read_bytes().startswith(b"\x89PNG")
    asked = len(parrot.asked)
    assert (
        invoked(*arguments, "--asked", 4, "--slots", 2, "--addressing", "slots,pinv")["rows"]
        == report["rows"]
    )
    assert len(parrot.asked) == asked


def test_further_facts_fill_the_bank_and_are_not_asked(tmp_path, parrot):
    data = data_file(tmp_path / "facts.jsonl", 2)
    fill = data_file(tmp_path / "more.jsonl", 6)
    arguments = ("batch", "--data", data, "--addressing", "slots", "--sizes", "6")
    assert "give --fill FILE" in refused(*arguments, "--out", tmp_path / "a")
    report = invoked(*arguments, "--fill", fill, "--out", tmp_path / "b")
    assert report["n"] == 2
    [facts] = parrot.wrote
    assert [fact.fact_id for fact in facts] == [f"evaluation-{n}" for n in range(6)]
    assert {prompt.split()[0] for prompt in parrot.asked if prompt.endswith("speaks")} == {
        "N0",
        "N1",
        "Zoe0",
        "Zoe1",
    }


def test_the_last_group_is_as_large_as_the_others(tmp_path, parrot):
    data = data_file(tmp_path / "facts.jsonl", 5)
    arguments = ("batch", "--data", data, "--addressing", "slots", "--sizes", "2")
    report = invoked(*arguments, "--out", tmp_path / "out")
    assert [len(facts) for facts in parrot.wrote] == [2, 2, 2]
    assert {row["metrics"]["edit_S"]["n"] for row in report["rows"]} == {5}


def test_a_baseline_alone_is_a_row_of_its_own(tmp_path, parrot, monkeypatch):
    monkeypatch.setattr(
        evaluation.batch, "alone", lambda system, chosen: [("ft", Alone(system, Amnesiac()))]
    )
    data = data_file(tmp_path / "facts.jsonl", 4)
    arguments = ("batch", "--data", data, "--addressing", "slots", "--sizes", "1,4")
    report = invoked(*arguments, "--baselines", "ft", "--out", tmp_path / "out")
    rows = {(row["system"], row["facts"]): values(row) for row in report["rows"]}
    assert rows["ft", 1]["edit_generated"] == rows["larimar", 4]["edit_generated"] == 100.0
    assert rows["ft", 4]["edit_generated"] == pytest.approx(25.0)
    assert rows["ft", 1]["neighborhood_unchanged"] == 100.0
    # Nothing of a baseline's was written to the bank.
    assert [len(facts) for facts in parrot.wrote] == [1, 1, 1, 1, 4]
    table = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "| ft, 4 |" in table


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--sizes", "4,2"),
        ("--sizes", "0,2"),
        ("--sizes", "a"),
        ("--addressing", "slots,slots"),
        ("--addressing", "fast"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(tmp_path, parrot, option, value):
    data = data_file(tmp_path / "facts.jsonl", 2)
    assert option in refused("batch", "--data", data, option, value, "--out", tmp_path)
