"""Sequential edits: their order, what is asked along the way, and what must not change."""

from __future__ import annotations

import dataclasses
import json

import pytest

import evaluation.sequential
from evaluation.alone import Alone
from evaluation.edit_stream import steps_of, stream_of
from evaluation.sequential import METRICS, alike_targets
from tests.banked_parrot import (
    Amnesiac,
    BankedParrot,
    data_file,
    invoked,
    opened_parrot,
    records_of,
    refused,
    text_file,
)
from tests.test_evaluation_edits import Scored, values


@pytest.fixture
def files(tmp_path):
    data = data_file(tmp_path / "facts.jsonl", 6)
    text = text_file(tmp_path / "text.txt")
    return ("sequential", "--data", data, "--text", text, "--out", tmp_path / "out")


@pytest.fixture
def parrot(monkeypatch):
    system = BankedParrot()
    monkeypatch.setattr(evaluation.sequential, "opened", opened_parrot(system))
    return system


def test_every_fact_is_written_once_before_any_is_written_again():
    stream = stream_of(records_of(2), rephrasings=3, unseen=1)
    assert [prompt for _, prompt in stream.edits] == [
        "N0 speaks",
        "N1 speaks",
        "wording 0 of N0 is",
        "wording 0 of N1 is",
        "wording 1 of N0 is",
        "wording 1 of N1 is",
    ]
    assert [prompt for _, prompt in stream.unseen] == ["wording 2 of N0 is", "wording 2 of N1 is"]
    assert len({fact.fact_id for fact in stream.facts(0, 6)}) == 6
    assert [fact.prompt for fact in stream.facts(4, 6)] == [one[1] for one in stream.edits[4:]]


def test_a_fact_with_few_rephrasings_keeps_its_unseen_ones():
    few, many = records_of(2)
    stream = stream_of([dataclasses.replace(few, paraphrases=few.paraphrases[:1]), many], 9, 2)
    assert [record.case_id for record, _ in stream.edits] == ["0", "1", "1"]
    assert [record.case_id for record, _ in stream.unseen] == ["0", "1", "1"]


def test_a_prompt_is_written_once_and_never_asked_as_unseen():
    one, other = records_of(2)
    same = dataclasses.replace(other, prompt=one.prompt, paraphrases=(one.prompt, "wording N1"))
    stream = stream_of([one, same], 1, 1)
    assert stream.edits == ((one, one.prompt),)
    assert [prompt for _, prompt in stream.unseen] == ["wording 2 of N0 is", "wording N1"]


def test_steps_are_few_and_end_with_the_last_edit():
    assert steps_of(1) == [1]
    assert steps_of(24) == [1, 10, 24]
    assert steps_of(1000) == [1, 10, *range(100, 1001, 100)]
    assert steps_of(7321) == [1, 10, 100, *range(800, 7321, 800), 7321]


def test_the_report_has_retention_locality_and_perplexity(files, parrot):
    report = invoked(*files, "--rephrasings", 2)
    ours, base = report["rows"]
    found = values(ours)
    shares = [name for name in METRICS if name.startswith(("retention", "unseen"))]
    assert {name: found[name] for name in shares} == dict.fromkeys(shares, 100.0)
    assert values(base)["retention_f1"] == values(base)["retention_in_scope"] == 0.0
    assert (report["n"], report["edits"]) == (6, 12)
    assert [row["edits"] for row in report["curve"]] == [1, 10, 12]
    assert found["text_unchanged"] == found["locality_unchanged"] == 100.0
    # The parrot gives P = 0.2 over two tokens: 1 / sqrt(0.04) a token.
    assert found["base_perplexity_before"] == pytest.approx(5.0)
    assert found["base_perplexity_after"] == found["base_perplexity_before"]
    assert ours["metrics"]["seconds_per_edit"]["n"] == 12
    assert [len(facts) for facts in parrot.wrote] == [0] + [1] * 12


def test_what_an_edit_changes_elsewhere_is_seen(files, monkeypatch):
    class Drifting(BankedParrot):
        """Every edit changes what the plain decoder says."""

        def one(self, candidate, answer):
            scored = super().one(candidate, answer)
            drift = 1e-9 * len(self.facts)
            return Scored(tuple(p - drift for p in scored.token_logprobs), scored.token_is_argmax)

        def seen(self, query, view):
            seen = super().seen(query, view)
            late = len(self.facts) > 3 and not seen.in_scope and view.memory
            return dataclasses.replace(seen, text=f"{seen.text}!") if late else seen

    monkeypatch.setattr(evaluation.sequential, "opened", opened_parrot(Drifting()))
    found = values(invoked(*files)["rows"][0])
    assert (found["text_unchanged"], found["locality_unchanged"]) == (0.0, 0.0)


def test_a_neighbour_that_another_edit_answers_is_not_asked(files, parrot):
    lines = [json.loads(line) for line in files[2].read_text().splitlines()]
    lines[0]["loc"] = "N3 speaks"
    files[2].write_text("\n".join(map(json.dumps, lines)))
    locality = invoked(*files)["rows"][0]["metrics"]["locality_unchanged"]
    assert (locality["value"], locality["n"]) == (100.0, 5)


def test_forgetting_on_the_way_shows_in_the_curve(files, monkeypatch):
    monkeypatch.setattr(evaluation.sequential, "opened", opened_parrot(BankedParrot(capacity=3)))
    report = invoked(*files, "--rephrasings", 2)
    assert [values(row)["retention_f1"] for row in report["curve"]] == [
        100.0,
        pytest.approx(50.0),  # of six facts three are found, whatever was written of them since
        pytest.approx(50.0),
    ]


def test_a_stopped_run_writes_what_it_had_and_goes_on(files, parrot, monkeypatch, tmp_path):
    whole = invoked(*files, "--rephrasings", 2)
    kept = tmp_path / "out" / "records.jsonl"
    lines = kept.read_text().splitlines(keepends=True)
    cut = [place for place, line in enumerate(lines) if json.loads(line).get("id") == "step-10"]
    kept.write_text("".join(lines[: cut[0] + 1]))
    again = BankedParrot()
    monkeypatch.setattr(evaluation.sequential, "opened", opened_parrot(again))
    report = invoked(*files, "--rephrasings", 2)
    assert [len(facts) for facts in again.wrote] == [10, 1, 1]
    for name, value in values(whole["rows"][0]).items():
        assert name == "seconds_per_edit" or values(report["rows"][0])[name] == value
    done = BankedParrot()
    monkeypatch.setattr(evaluation.sequential, "opened", opened_parrot(done))
    assert invoked(*files, "--rephrasings", 2)["rows"] == report["rows"]
    assert (done.wrote, done.asked) == ([], [])


def test_a_baseline_is_asked_at_every_step_and_after_its_last_edit(files, parrot, monkeypatch):
    baseline = Amnesiac()
    monkeypatch.setattr(
        evaluation.sequential, "alone", lambda system, chosen: [("ft", Alone(system, baseline))]
    )
    report = invoked(*files, "--baselines", "ft")
    found = report["rows"][2]
    assert found["system"] == "ft" and found["metrics"]["seconds_per_edit"]["n"] == 6
    assert values(found)["retention_f1"] == pytest.approx(100 / 6)
    assert (values(found)["unseen_S"], values(found)["locality_unchanged"]) == (
        pytest.approx(100 / 6),
        100.0,
    )
    assert baseline.bank.facts == {} and len(parrot.wrote) == 7
    curve = [row for row in report["curve"] if row["system"] == "ft"]
    assert [row["edits"] for row in curve] == [1, 6]
    assert values(curve[0])["retention_f1"] == 100.0  # of what is forgotten the first is not yet
    assert curve[1]["metrics"]["retention_f1"] == found["metrics"]["retention_f1"]


def test_a_step_asks_a_bounded_number_of_edits(tmp_path, parrot, monkeypatch):
    monkeypatch.setattr(evaluation.sequential, "ASKED", 7)
    data = data_file(tmp_path / "many.jsonl", 12, paraphrases=0)
    report = invoked("sequential", "--data", data, "--out", tmp_path / "many")
    counts = [row["metrics"]["retention_f1"]["n"] for row in report["curve"]]
    assert counts == [1, 7, 12]


def test_a_record_whose_targets_are_alike_counts_for_all_but_S(tmp_path, parrot):
    records = records_of(3)
    alike = dataclasses.replace(records[1], target_true=f" {records[1].target_new.upper()}")
    assert alike_targets([records[0], alike]) == {alike.case_id}
    data = data_file(tmp_path / "facts.jsonl", 3)
    lines = [json.loads(line) for line in data.read_text().splitlines()]
    lines[1]["answer"] = lines[1]["alt"]
    data.write_text("\n".join(map(json.dumps, lines)))
    found = invoked("sequential", "--data", data, "--out", tmp_path / "out")["rows"][0]["metrics"]
    assert (found["retention_S"]["n"], found["retention_f1"]["n"]) == (2, 3)
    assert (found["unseen_S"]["n"], found["unseen_exact"]["n"]) == (2, 3)
    assert found["retention_S"]["value"] == found["unseen_S"]["value"] == 100.0


def test_without_text_there_is_no_perplexity(files, parrot, tmp_path):
    report = invoked(*files[:3], "--out", tmp_path / "b")
    assert "base_perplexity_before" not in report["rows"][0]["metrics"]
    (tmp_path / "short.txt").write_text("too short\n")
    message = refused(*files[:3], "--text", tmp_path / "short.txt", "--out", tmp_path / "c")
    assert "no line of 48 words" in message


def test_an_interval_is_over_records_of_which_each_has_several_edits(tmp_path, parrot):
    """Rephrasings of one fact are no facts of their own."""
    data = data_file(tmp_path / "facts.jsonl", 4, paraphrases=5)
    report = invoked("sequential", "--data", data, "--rephrasings", 3, "--out", tmp_path / "out")
    assert report["edits"] > 4
    for row in report["rows"]:
        assert row["metrics"]["retention_S"]["n"] == row["metrics"]["unseen_S"]["n"] == 4
