"""Rephrasings: what is written, and that what is asked never was."""

from __future__ import annotations

import pytest

import evaluation.rephrase
from tests.banked_parrot import BankedParrot, data_file, invoked, opened_parrot, refused
from tests.test_evaluation_edits import values


class Literal(BankedParrot):
    """Finds a rephrasing of a subject only where two of its others were written."""

    def found(self, prompt, view):
        known = [fact for facts in self.wrote[-1:] for fact in facts]
        literal = {fact.prompt for fact in known}
        wide = {fact.prompt.split()[0] for fact in known if len(fact.rephrasings) >= 2}
        found = super().found(prompt, view)
        return found if prompt in literal or set(prompt.split()) & wide else None


@pytest.fixture
def parrot(monkeypatch):
    system = Literal()
    monkeypatch.setattr(evaluation.rephrase, "opened", opened_parrot(system))
    return system


def test_written_rephrasings_raise_the_recall_of_unseen_ones(tmp_path, parrot):
    data = data_file(tmp_path / "facts.jsonl", 4, paraphrases=5)
    arguments = ("rephrase", "--data", data, "--out", tmp_path / "out", "--facts", "2,4")
    arguments = (*arguments, "--written", "0,2,3", "--unseen", 2, "--addressing", "slots,gaussian")
    report = invoked(*arguments)
    ours = [row for row in report["rows"] if row["system"] == "larimar"]
    assert [(r["addressing"], r["facts"], r["written"]) for r in ours] == [
        (name, facts, written)
        for name in ("slots", "gaussian")
        for facts in (2, 4)
        for written in (0, 2, 3)
    ]
    assert [values(row)["unseen_generated"] for row in ours] == 4 * [0.0, 100.0, 100.0]
    assert {values(row)["edit_generated"] for row in ours} == {100.0}
    assert values(report["rows"][-1])["unseen_generated"] == 0.0
    written = {text for facts in parrot.wrote for fact in facts for text in fact.rephrasings}
    unseen = {prompt for prompt in parrot.asked if prompt.startswith("wording")}
    assert unseen == {f"wording {w} of N{n} is" for w in (3, 4) for n in range(4)}
    assert not unseen & written and len(written) == 4 * 3
    table = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "| 4 x 3 |" in table and "## gaussian" in table
    assert (tmp_path / "out" / "rephrase-written.png").is_file()
    asked = len(parrot.asked)
    assert invoked(*arguments)["rows"] == report["rows"] and len(parrot.asked) == asked


def test_facts_without_rephrasings_enough_are_passed_over_or_refused(tmp_path, parrot):
    data = data_file(tmp_path / "facts.jsonl", 4, paraphrases=3)
    arguments = ("rephrase", "--data", data, "--out", tmp_path / "out")
    assert "0 records have 4" in refused(*arguments, "--facts", 2, "--written", "0,3")
    assert "4 records have 3" in refused(*arguments, "--facts", 5, "--written", "0,2")
