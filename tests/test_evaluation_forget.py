"""Forgetting: exact where a bank equals one that never had the facts; seen where it does not."""

from __future__ import annotations

import pytest

import evaluation.forget
from tests.banked_parrot import BankedParrot, data_file, invoked, opened_parrot, refused
from tests.test_evaluation_edits import values


def run(tmp_path, monkeypatch, system, *options):
    monkeypatch.setattr(evaluation.forget, "opened", opened_parrot(system))
    data = data_file(tmp_path / "facts.jsonl", 8)
    return invoked("forget", "--data", data, "--out", tmp_path / "out", *options)


def test_forgotten_facts_are_gone_and_the_others_stay(tmp_path, monkeypatch):
    options = ("--slots", 4, "--every", 4, "--addressing", "slots,pinv")
    report = run(tmp_path, monkeypatch, BankedParrot(), *options)
    rows = {(row.get("addressing", "base"), row["facts"]): values(row) for row in report["rows"]}
    whole = rows["slots", 8]
    assert (whole["forgotten_recall_before"], whole["forgotten_recall"]) == (100.0, 0.0)
    assert whole["retained_recall"] == whole["retained_unchanged"] == 100.0
    assert whole["same_digest"] == whole["same_answers"] == 100.0
    # A memory of four slots found the first four; without two of eight it finds two more.
    full = rows["pinv", 8]
    assert full["forgotten_recall_before"] == pytest.approx(50.0)
    assert full["retained_recall_before"] == pytest.approx(50.0)
    assert full["retained_recall"] == pytest.approx(400 / 6)
    assert (rows["slots", 1]["forgotten_recall"], rows["slots", 1]["retained_recall"]) == (0, None)
    assert rows["base", 8]["retained_recall"] == 0.0
    assert report["sizes"] == [1, 4, 8]
    assert (tmp_path / "out" / "forget.png").read_bytes().startswith(b"\x89PNG")


def test_what_forgetting_leaves_behind_is_seen(tmp_path, monkeypatch):
    class Sloppy(BankedParrot):
        """Forgets every other fact only."""

        def forget(self, fact_ids):
            super().forget(fact_ids[::2])

    report = run(tmp_path, monkeypatch, Sloppy(), "--sizes", "8", "--every", 2)
    found = values(report["rows"][0])
    assert found["forgotten_recall"] == pytest.approx(50.0)
    assert found["never_written_recall"] == found["same_digest"] == 0.0
    assert found["same_answers"] == pytest.approx(75.0)


def test_a_run_that_is_done_asks_nothing_and_too_few_facts_are_refused(tmp_path, monkeypatch):
    system = BankedParrot()
    options = ("--sizes", "1,8", "--addressing", "slots")
    report = run(tmp_path, monkeypatch, system, *options)
    asked = len(system.asked)
    assert run(tmp_path, monkeypatch, system, *options)["rows"] == report["rows"]
    assert len(system.asked) == asked
    message = refused("forget", "--data", tmp_path / "facts.jsonl", "--out", tmp_path / "b")
    assert "8 facts for --sizes up to 1024" in message
