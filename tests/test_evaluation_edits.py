"""Tables of edits, over a system small enough to work out by hand, and their commands."""

from __future__ import annotations

import json
import math
import random
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pytest
from typer.testing import CliRunner

import evaluation.edit_tables
from evaluation import counterfact, zsre
from evaluation.__main__ import app
from evaluation.counterfact import Switch, views_of
from evaluation.data import DataFile, EditRecord
from evaluation.edits import Probe, measured, observed, plain_note, plain_summary, row
from evaluation.frame import Frame
from evaluation.report import Table, cell
from evaluation.systems import BASE, LARIMAR, SCOPE_OFF, Seen, opened
from larimar.errors import DataLoss, FailedPrecondition, InvalidArgument, Unavailable
from tests.gateway_double import DoubleServer


@dataclass(frozen=True)
class Scored:
    token_logprobs: tuple[float, ...]
    token_is_argmax: tuple[bool, ...]


class Parrot:
    """Knows P = 0.2 of new and 0.5 of true targets; 0.8 and 0.1 where a written subject is named.

    A subject is the first word of a written prompt.
    """

    digest = "d" * 64

    def __init__(self):
        self.setup: dict[str, str] = {}
        self.facts, self.most, self.asked = {}, 0, []

    def write(self, facts):
        for fact in facts:
            self.facts[fact.fact_id] = (fact.prompt.split()[0], fact.answer)
        self.most = max(self.most, len(self.facts))

    def forget(self, fact_ids):
        for fact_id in fact_ids:
            del self.facts[fact_id]

    def read(self, queries, view):
        return [self.seen(query, view) for query in queries]

    def decode(self, held):
        return list(held)

    def plain_difference(self, prompts):
        return 0.0

    def seen(self, query, view):
        assert all(candidate.startswith(" ") for candidate in query.candidates)
        self.asked.append(query.prompt)
        answer = self.found(query.prompt, view)
        text = f" {answer or 'the plain text'}. And" if query.max_tokens else None
        scores = tuple(self.one(candidate.strip(), answer) for candidate in query.candidates)
        return Seen(scores, text, answer is not None)

    def found(self, prompt, view):
        if not view.memory:
            return None
        named = [a for s, a in self.facts.values() if s in prompt.split() or not view.scope]
        return named[0] if named else None

    def one(self, candidate, answer):
        if answer is None:
            p, top = (0.5, True) if candidate.startswith("true") else (0.2, False)
        else:
            p, top = (0.8, True) if candidate == answer else (0.1, False)
        # Two tokens whose geometric mean is p, unless it is a single one.
        tokens = (p * p, 1.0) if " " in candidate else (p,)
        return Scored(
            tuple(math.log(token) for token in tokens), (True,) * (len(tokens) - 1) + (top,)
        )


RECORDS = (
    EditRecord(
        "1",
        "Anna",
        "Anna speaks",
        "new tongue",
        "true",
        paraphrases=("The language of Anna is", "She speaks"),
        paraphrases_raw=("Rain fell. The language of Anna is",),
        neighbors=("Zoe speaks", "Anna ? speaks", "Boris speaks", "Carl speaks"),
        neighbor_answers=("true",) * 4,
    ),
    EditRecord(
        "2", "Boris", "Boris speaks", "new", "true", paraphrases=("Of Boris the tongue is",)
    ),
)
# Single edits, worked out by hand. Edit: 0.8 - 0.1. Paraphrases of record 1: one in scope
# (S 1, M 0.7), one not (S 0, M -0.3), hence 0.5 and 0.2; of record 2: 1 and 0.7. Neighbours of
# record 1: three plain (S 1, M 0.3), one that names Anna (S 0, M -0.7), hence 0.75 and 0.05; of
# the two that are continued, one is as before.
SINGLE = {
    "edit_S": 100.0,
    "edit_M": 70.0,
    "edit_argmax": 100.0,
    "edit_generated": 100.0,
    "paraphrase_S": 75.0,
    "paraphrase_M": 45.0,
    "paraphrase_argmax": 75.0,
    "paraphrase_generated": 75.0,
    "paraphrase_raw_S": 100.0,
    "paraphrase_raw_M": 70.0,
    "paraphrase_raw_generated": 100.0,
    "neighborhood_S": 75.0,
    "neighborhood_M": 5.0,
    "neighborhood_unchanged": 50.0,
    "edit_in_scope": 100.0,
    "paraphrase_in_scope": 75.0,
    "paraphrase_raw_in_scope": 100.0,
    "neighborhood_in_scope": 25.0,
}
PLAIN = {
    **dict.fromkeys(SINGLE, 0.0),
    "edit_M": -30.0,
    "paraphrase_M": -30.0,
    "paraphrase_raw_M": -30.0,
    "neighborhood_S": 100.0,
    "neighborhood_M": 30.0,
    "neighborhood_unchanged": 100.0,
}


def rows_of(
    system, records=RECORDS, views=(LARIMAR, BASE), measure=counterfact.record_metrics, **how
):
    kept = [
        measured(system, record, seen, measure)
        for record, seen in observed(system, records, views, **how)
    ]
    names = list(kept[0]["rows"][views[0].name])
    return kept, [row(view.name, [k["rows"][view.name] for k in kept], names, 0) for view in views]


def values(one):
    return {name: summary["value"] for name, summary in one["metrics"].items()}


def test_exact_match_and_f1_end_an_answer_in_the_same_place():
    said = Probe(Scored((), ()), Scored((), ()), "St. Louis", "Paris", " st. louis. It", True)
    assert evaluation.edit_tables.generated(said) == evaluation.edit_tables.f1(said) == 1.0


def test_what_older_rules_of_scoring_measured_is_another_run(tmp_path):
    frame = Frame("zsre", tmp_path / "data.json", out=tmp_path)
    data = DataFile("data.json", "zsre", "0" * 64, ())
    frame.started(data, "1" * 64, {})
    kept = tmp_path / "records.jsonl"
    run = json.loads(kept.read_text())
    kept.write_text(json.dumps({key: run[key] for key in run if key != "scoring"}) + "\n")
    with pytest.raises(FailedPrecondition, match=r"\(scoring differ\)"):
        frame.started(data, "1" * 64, {})


def test_single_edits_give_the_hand_worked_figures():
    system = Parrot()
    _, (ours, base) = rows_of(system)
    assert (ours["system"], base["system"]) == ("larimar", "base")
    assert values(ours) == pytest.approx(SINGLE)
    assert values(base) == pytest.approx(PLAIN)
    assert tuple(ours["metrics"]) == counterfact.PROBED == tuple(SINGLE)
    assert [ours["metrics"][name]["n"] for name in ("edit_S", "neighborhood_S")] == [2, 1]
    assert (system.most, system.facts) == (1, {})


def test_without_scope_every_prompt_reads_memory():
    _, (off,) = rows_of(Parrot(), views=(SCOPE_OFF,))
    assert values(off) == pytest.approx(
        SINGLE
        | dict.fromkeys(("paraphrase_S", "paraphrase_argmax", "paraphrase_generated"), 100.0)
        | {"paraphrase_M": 70.0, "neighborhood_S": 0.0, "neighborhood_M": -70.0}
        | {"paraphrase_in_scope": 100.0, "neighborhood_in_scope": 100.0}
        | {"neighborhood_unchanged": None}
    )


def test_scope_sees_prompts_only():
    system = Parrot()
    rows_of(system)
    prompts = {
        prompt
        for record in RECORDS
        for prompt in (
            record.prompt,
            *record.paraphrases,
            *record.paraphrases_raw,
            *record.neighbors,
        )
    }
    assert set(system.asked) == prompts


def test_a_batch_holds_its_edits_and_drops_neighbours_that_are_edited():
    system = Parrot()
    _, (ours, base) = rows_of(system, batch=5)
    assert (system.most, system.facts) == (2, {})
    # "Boris speaks" and "Anna ? speaks" are gone: what is left was not touched.
    kept = {"neighborhood_S": 100.0, "neighborhood_M": 30.0, "neighborhood_unchanged": 100.0}
    assert values(ours) == pytest.approx(SINGLE | kept | {"neighborhood_in_scope": 0.0})
    assert values(base) == pytest.approx(PLAIN)
    # In batches of one nothing but "Anna ? speaks" is edited.
    _, (ours, _) = rows_of(Parrot(), batch=1)
    assert values(ours) == pytest.approx(SINGLE | kept | {"neighborhood_in_scope": 0.0})


def test_records_that_are_done_are_written_in_their_batch_but_not_asked_again():
    system = Parrot()
    seen = list(observed(system, RECORDS, [LARIMAR], batch=2, done=lambda one: one.case_id == "1"))
    assert [record.case_id for record, _ in seen] == ["2"]
    assert system.most == 2 and set(system.asked) == {"Boris speaks", "Of Boris the tongue is"}
    assert not list(observed(system, RECORDS, [LARIMAR], done=lambda one: True))


class Faulty(Parrot):
    """Fails once it was asked four things."""

    def seen(self, query, view):
        if len(self.asked) >= 4:
            raise Unavailable("gone")
        return super().seen(query, view)


@pytest.mark.parametrize("batch", [None, 2])
def test_a_failed_run_leaves_no_fact_behind(batch):
    system = Faulty()
    with pytest.raises(Unavailable):
        rows_of(system, batch=batch)
    assert system.most == (batch or 1)
    assert system.facts == {}


@pytest.mark.parametrize(
    "bad", [{"records": ()}, {"records": RECORDS[:1] * 2}, {"max_tokens": 0}, {"batch": 0}]
)
def test_a_run_that_makes_no_sense_is_refused(bad):
    arguments = {"records": RECORDS} | bad
    with pytest.raises(InvalidArgument):
        list(observed(Parrot(), arguments.pop("records"), [LARIMAR], **arguments))


def test_the_rows_are_those_of_the_switches():
    assert views_of(Switch.on, Switch.both) == [LARIMAR, BASE]
    assert views_of(Switch.both, Switch.both) == [LARIMAR, SCOPE_OFF, BASE]
    assert views_of(Switch.off, Switch.on) == [SCOPE_OFF]
    assert views_of(Switch.on, Switch.off) == views_of(Switch.both, Switch.off) == [BASE]


def test_the_plain_decoder_is_checked_on_neighbours_out_of_scope_only():
    kept, _ = rows_of(Parrot())
    assert plain_summary(kept) == {
        "queries": 3,
        "logprob_difference": 0.0,
        "texts": 1,
        "texts_differ": 0,
        "stock_logit_difference": 0.0,
    }

    class Leaking(Parrot):
        """Out of scope, with facts in memory, it is not the plain decoder."""

        def seen(self, query, view):
            seen = super().seen(query, view)
            if not view.memory or seen.in_scope:
                return seen
            changed = [
                Scored(tuple(one - 0.25 for one in c.token_logprobs), c.token_is_argmax)
                for c in seen.candidates
            ]
            return Seen(tuple(changed), seen.text and seen.text + "!", False)

        def plain_difference(self, prompts):
            return 0.5 if prompts else 0.0

    kept, _ = rows_of(Leaking())
    found = plain_summary(kept)
    assert (found["queries"], found["texts_differ"]) == (3, 1)
    assert (found["logprob_difference"], found["stock_logit_difference"]) == (0.25, 0.5)
    assert "0.25" in plain_note(found) and "logits: 0.5" in plain_note(found)
    assert plain_summary([]) is None


class Dice(Parrot):
    """Random log probabilities and texts, the same for the same question."""

    def roll(self, *key):
        return random.Random(repr(key))

    def seen(self, query, view):
        dice = self.roll(view.memory, query.prompt)
        scores = [
            Scored(
                tuple(-5 * dice.random() for _ in range(size)),
                tuple(dice.choices([0, 1, 1], k=size)),
            )
            for size in dice.choices([1, 2, 3], k=len(query.candidates))
        ]
        text = self.roll(view.memory, query.prompt, "text").choice([" yes.", " no.", " maybe"])
        return Seen(tuple(scores), text if query.max_tokens else None, True)


def test_random_records_agree_with_a_second_computation():
    dice = random.Random(5)
    records = [
        EditRecord(
            str(i),
            f"S{i}",
            f"S{i} is",
            "yes",
            "no",
            paraphrases=tuple(f"p{i}.{k}" for k in range(dice.randint(1, 4))),
            neighbors=tuple(f"n{i}.{k}" for k in range(count)),
            neighbor_answers=("no",) * count,
        )
        for i, count in enumerate(dice.choices([1, 2, 3, 4], k=20))
    ]
    system = Dice()
    _, (ours, _) = rows_of(system, records)

    def seen(prompt, view=LARIMAR):
        from evaluation.systems import Query

        return system.seen(Query(prompt, (" yes", " no"), 9), view)

    def table(pick, measure):
        return 100 * np.mean([np.mean([measure(prompt) for prompt in pick(r)]) for r in records])

    def margin(prompt):
        new, true = (np.exp(np.mean(one.token_logprobs)) for one in seen(prompt).candidates)
        return float(new - true)

    expected = {
        "edit_S": table(lambda r: [r.prompt], lambda prompt: margin(prompt) > 0),
        "edit_M": table(lambda r: [r.prompt], margin),
        "edit_argmax": table(
            lambda r: [r.prompt], lambda prompt: min(seen(prompt).candidates[0].token_is_argmax)
        ),
        "edit_generated": table(lambda r: [r.prompt], lambda x: seen(x).text == " yes."),
        "paraphrase_S": table(lambda r: r.paraphrases, lambda prompt: margin(prompt) > 0),
        "paraphrase_M": table(lambda r: r.paraphrases, margin),
        "neighborhood_S": table(lambda r: r.neighbors, lambda prompt: margin(prompt) < 0),
        "neighborhood_M": table(lambda r: r.neighbors, lambda prompt: -margin(prompt)),
        "neighborhood_unchanged": table(
            lambda r: r.neighbors[:2], lambda x: seen(x).text == seen(x, BASE).text
        ),
    }
    assert {name: values(ours)[name] for name in expected} == pytest.approx(expected)
    assert all(
        one["low"] <= one["value"] <= one["high"] for one in ours["metrics"].values() if one["n"]
    )


def test_the_metrics_of_zsre_count_tokens_and_answers():
    """Two tokens of the new target, the second by argmax too where it is written."""
    _, (ours, base) = rows_of(Parrot(), RECORDS[:1], measure=zsre.record_metrics)
    assert tuple(ours["metrics"]) == zsre.METRICS
    assert values(ours) == pytest.approx(
        {
            "edit_token_accuracy": 100.0,
            "edit_exact_match": 100.0,
            "edit_F1": 100.0,
            "rephrase_token_accuracy": 75.0,
            "rephrase_exact_match": 50.0,
            "rephrase_F1": 50.0,
            "locality_unchanged": 50.0,
            "locality_token_accuracy": 75.0,
            "edit_in_scope": 100.0,
            "rephrase_in_scope": 50.0,
            "locality_in_scope": 25.0,
        }
    )
    assert values(base)["edit_token_accuracy"] == 50.0
    assert values(base)["locality_token_accuracy"] == 100.0


def test_a_cell_shows_no_negative_zero():
    assert cell({"value": -0.04, "low": -0.06, "high": 0.01}) == "0.0 [-0.1, 0.0]"
    assert cell({"value": None, "low": None, "high": None}) == "-"


def test_a_table_is_markdown():
    text = Table(["metric", "a"], [["x", "1"]], "Title").markdown()
    assert text == "## Title\n\n| metric | a |\n|---|---|\n| x | 1 |\n"


# The commands.


@pytest.fixture
def data_file(tmp_path):
    rows = [
        {
            "case_id": int(record.case_id),
            "subject": record.subject,
            "prompt": record.prompt,
            "target_new": record.target_new,
            "target_true": record.target_true,
            "rephrases": list(record.paraphrases),
        }
        for record in RECORDS
    ]
    path = tmp_path / "facts.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.fixture
def parrot(monkeypatch):
    """The parrot in the place of the model."""
    system = Parrot()

    @contextmanager
    def found(target, model, detector, dtype=None):
        yield system

    monkeypatch.setattr(evaluation.edit_tables, "opened", found)
    return system


def invoke(*arguments):
    return CliRunner().invoke(app, [str(one) for one in arguments])


@pytest.mark.parametrize("batch", [None, 2])
def test_the_command_writes_json_table_and_figure(data_file, tmp_path, parrot, batch):
    out = tmp_path / "reports"
    more = ["--batch", batch] if batch else []
    result = invoke("counterfact", "--data", data_file, "--out", out, "--json", *more)
    assert result.exit_code == 0, result.output
    stem = f"counterfact-{'batch-2' if batch else 'single'}"
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert json.loads(result.stdout) == report
    without_probes = [name for name in SINGLE if "raw" in name or name.startswith("neighbor")]
    for one, expected in zip(report["rows"], (SINGLE, PLAIN), strict=True):
        assert values(one) == pytest.approx(expected | dict.fromkeys([*without_probes, "score"]))
    assert (report["model_digest"], report["data"]["form"]) == ("d" * 64, "multi_rephrase")
    assert {"versions", "commit", "seed", "n", "plain_decoder", "paper"} < set(report)
    assert set(report["machine"]) == {"cpus", "platform", "torch_threads"}
    table = (out / "report.md").read_text(encoding="utf-8")
    assert "| edit_S | 100.0 [100.0, 100.0] | 0.0 [0.0, 0.0] |" in table
    assert "| 76.5 / 88.4 |" in table and "other base models" in table
    assert (out / f"{stem}.png").read_bytes().startswith(b"\x89PNG")


def test_the_score_is_the_harmonic_mean_of_the_three_s(tmp_path, parrot):
    fields = {
        "case_id": 1,
        "requested_rewrite": {
            "prompt": "{} speaks",
            "subject": "Anna",
            "target_new": {"str": "new tongue"},
            "target_true": {"str": "true"},
        },
        "paraphrase_prompts": list(RECORDS[0].paraphrases_raw),
        "paraphrase_prompts_clean": list(RECORDS[0].paraphrases),
        "neighborhood_prompts": list(RECORDS[0].neighbors),
        "generation_prompts": ["Anna"],
    }
    data = tmp_path / "one.json"
    data.write_text(json.dumps([fields]))
    result = invoke("counterfact", "--data", data, "--out", tmp_path, "--json", "--scope", "both")
    ours, off, base = json.loads(result.stdout)["rows"]
    assert values(ours)["score"] == pytest.approx(3 / (1 / 100 + 1 / 50 + 1 / 75))
    assert (off["system"], values(off)["score"], values(base)["score"]) == ("scope off", 0.0, 0.0)


def test_a_stopped_run_goes_on_where_it_was(data_file, tmp_path, parrot):
    arguments = ["counterfact", "--data", data_file, "--out", tmp_path / "out", "--json"]
    first = json.loads(invoke(*arguments, "--limit", 1).stdout)
    asked = len(parrot.asked)
    second = json.loads(invoke(*arguments).stdout)
    assert (first["n"], second["n"]) == (1, 2)
    assert set(parrot.asked[asked:]) == {"Boris speaks", "Of Boris the tongue is"}
    records = (tmp_path / "out" / "records.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in records[1:]] == ["1", "2"]
    asked = len(parrot.asked)
    assert json.loads(invoke(*arguments).stdout)["rows"] == second["rows"]
    assert len(parrot.asked) == asked
    refused = invoke(*arguments, "--max-tokens", 3)
    assert refused.exit_code == 1 and "max_tokens" in json.loads(refused.stderr)["error"]["message"]
    assert invoke(*arguments, "--max-tokens", 3, "--fresh").exit_code == 0
    assert len(parrot.asked) > asked


def test_limit_and_probes_reach_the_report(data_file, tmp_path, parrot):
    arguments = ["counterfact", "--data", data_file, "--out", tmp_path, "--limit", 1]
    result = invoke(*arguments, "--probes", 1)
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert (report["n"], report["probes"]) == (1, 1)
    assert values(report["rows"][0])["paraphrase_S"] == pytest.approx(100.0)
    assert "edit_S" in result.stdout


@pytest.mark.parametrize("name", ["counterfact", "zsre"])
def test_the_command_says_which_line_is_wrong(data_file, name):
    data_file.write_text(data_file.read_text(encoding="utf-8") + "\n{]", encoding="utf-8")
    result = invoke(name, "--data", data_file, "--json")
    assert result.exit_code == 1
    error = json.loads(result.stderr)["error"]
    assert error["code"] == "INVALID_ARGUMENT"
    assert f"{data_file}:3:" in error["message"]


def test_zsre_takes_records_of_its_own_form_only(data_file, tmp_path, parrot):
    assert "give ZsRE records" in invoke("zsre", "--data", data_file).stderr.replace("\n", " ")
    path = tmp_path / "zsre.json"
    fields = {
        "subject": "Anna",
        "src": "Anna speaks what?",
        "rephrase": "What does Anna speak?",
        "alt": "new",
        "answers": ["true"],
        "loc": "nq question: who is Zoe",
        "loc_ans": "true",
    }
    path.write_text(json.dumps([fields, fields]))
    result = invoke("zsre", "--data", path, "--out", tmp_path / "z", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["name"], report["n"], report["data"]["form"]) == ("zsre-single", 2, "zsre")
    assert values(report["rows"][0])["rephrase_exact_match"] == 100.0
    assert report["plain_decoder"]["queries"] == 2


def test_a_pipeline_is_asked_in_a_bank_of_its_own_that_is_deleted(data_file, tmp_path):
    server = DoubleServer()
    try:
        arguments = ["--data", data_file, "--out", tmp_path, "--target", server.target]
        result = invoke("counterfact", *arguments, "--batch", 2)
        assert result.exit_code == 0, result.output
        asked, banks = server.gateway.requests, server.gateway.banks
    finally:
        server.stop()
    (made,) = asked["CreateBank"]
    assert made.bank.startswith("evaluation-")
    assert list(banks) == ["default"]
    calls = [one for name in ("Forget", "Ask", "Score", "DeleteBank") for one in asked[name]]
    assert {one.bank for one in calls} == {made.bank}
    assert [one.fact_id for one in asked["Forget"]] == ["evaluation-1", "evaluation-2"]
    prompts = sorted(p for r in RECORDS for p in (r.prompt, *r.paraphrases))
    for no_memory in (False, True):
        for name in ("Ask", "Score"):
            found = [one.prompt for one in asked[name] if one.no_memory == no_memory]
            assert sorted(found) == prompts
    assert [" new tongue", " true"] in [list(one.candidates) for one in asked["Score"]]
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["model_digest"] == "m1"
    # The double likes short candidates: " new" before " true" before " new tongue".
    assert values(report["rows"][0])["edit_S"] == pytest.approx(50.0)
    assert [values(one)["edit_in_scope"] for one in report["rows"]] == [100.0, 0.0]


def test_a_failing_pipeline_is_an_error_and_its_bank_goes_all_the_same(data_file, tmp_path):
    server = DoubleServer()
    server.gateway.faults["Score"].append(DataLoss("the bank's log is damaged"))
    try:
        arguments = ["--data", data_file, "--out", tmp_path, "--target", server.target]
        result = invoke("counterfact", *arguments, "--json")
        scope_off = invoke("counterfact", *arguments, "--scope", "off", "--fresh", "--json")
    finally:
        server.stop()
    assert result.exit_code == scope_off.exit_code == 1
    message = json.loads(result.stderr)["error"]
    assert message == {"code": "DATA_LOSS", "message": "the bank's log is damaged"}
    assert "in-process" in json.loads(scope_off.stderr)["error"]["message"]
    assert list(server.gateway.banks) == ["default"]


def test_a_target_that_is_none_is_an_error(data_file):
    result = invoke("counterfact", "--data", data_file, "--target", "nowhere", "--json")
    assert result.exit_code == 1
    assert "nowhere" in json.loads(result.stderr)["error"]["message"]
    for detector in ("", "esd"):
        with pytest.raises(InvalidArgument), opened("nowhere", "model", detector):
            pass
