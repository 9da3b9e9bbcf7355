"""Scores of edits: hand-worked examples, second computations, and the protocol's arithmetic."""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import larimar
from evaluation import counterfact, metrics
from evaluation.__main__ import app
from evaluation.data import EditData, EditRecord
from larimar.errors import DataLoss, InvalidArgument, Unavailable
from larimar.results import Score
from tests.gateway_double import DoubleServer

LOGPROBS = st.lists(st.floats(-30, 0), min_size=1, max_size=6)


def test_probability_is_the_geometric_mean_of_the_token_probabilities():
    assert metrics.probability([math.log(0.5)]) == pytest.approx(0.5)
    # Two tokens, 0.8 and 0.2: sqrt(0.16) = 0.4.
    assert metrics.probability([math.log(0.8), math.log(0.2)]) == pytest.approx(0.4)


def test_success_and_magnitude_of_a_hand_worked_edit():
    new, true = [math.log(0.8), math.log(0.2)], [math.log(0.3)]
    assert metrics.success(new, true) == 1.0
    assert metrics.magnitude(new, true) == pytest.approx(0.1)
    assert metrics.neighborhood_success(new, true) == 0.0
    assert metrics.neighborhood_magnitude(new, true) == pytest.approx(-0.1)


def test_success_is_by_mean_not_by_sum():
    # The whole of the longer target is less probable (0.216 < 0.5), a token of it more (0.6).
    assert metrics.success([math.log(0.6)] * 3, [math.log(0.5)]) == 1.0


def test_a_tie_is_a_success_of_neither_side():
    assert metrics.success([-1.0, -3.0], [-2.0]) == 0.0
    assert metrics.neighborhood_success([-1.0, -3.0], [-2.0]) == 0.0


def test_success_holds_where_both_probabilities_underflow():
    assert metrics.probability([-2000.0]) == metrics.probability([-3000.0]) == 0.0
    assert metrics.success([-2000.0], [-3000.0]) == 1.0
    assert metrics.success([-3000.0], [-2000.0]) == 0.0


@given(LOGPROBS, LOGPROBS)
def test_success_and_magnitude_agree_with_a_second_computation(new, true):
    p_new, p_true = (
        float(np.prod(np.exp(x, dtype=np.longdouble)) ** (1 / len(x))) for x in (new, true)
    )
    assert metrics.magnitude(new, true) == pytest.approx(p_new - p_true, abs=1e-9)
    if abs(math.log(p_new) - math.log(p_true)) > 1e-9:
        assert metrics.success(new, true) == float(p_new > p_true)
        assert metrics.neighborhood_success(new, true) == float(p_new < p_true)


@pytest.mark.parametrize("bad", [[], [math.nan]])
def test_no_probability_without_numbers(bad):
    with pytest.raises(InvalidArgument):
        metrics.probability(bad)


def test_argmax_match_needs_every_token():
    assert metrics.argmax_match([True, True]) == 1.0
    assert metrics.argmax_match([True, False]) == 0.0
    with pytest.raises(InvalidArgument):
        metrics.argmax_match([])


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (" Tarsin.", "tarsin"),
        (" Tarsin. It lies on a river.", "tarsin"),
        ("Tarsin\nThe next line", "tarsin"),
        ("Tarsin<|endoftext|>rest", "tarsin"),
        ("  New   York!", "new york"),
        ('Tarsin." he said', "tarsin"),
        ("Tarsin . It", "tarsin"),
        ("Tarsin, the city", "tarsin, the city"),
        ("3.5 metres", "3.5 metres"),
        ("\nTarsin", ""),
        ("", ""),
    ],
)
def test_the_generated_answer_ends_at_the_first_mark(text, answer):
    assert metrics.generated_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "target", "match"),
    [
        (" Tarsin", "Tarsin", 1),
        (" TARSIN. It lies", " tarsin ", 1),
        (" Tarsin and", "Tarsin", 0),
        (" Tarsinville.", "Tarsin", 0),
        (" Paris, France.", "Paris", 0),
        (" The Tarsin", "Tarsin", 0),
        (" St. Louis. It", "St. Louis", 1),
        (" St. Petersburg. It", "St. Louis", 0),
        (" St", "St. Louis", 0),
        (" Washington, D.C. It is", "Washington, D.C.", 1),
        (" Stra\u00dfe.", "STRASSE", 1),
        ("", "Tarsin", 0),
    ],
)
def test_the_generated_answer_must_equal_the_target(text, target, match):
    assert metrics.generated_match(text, target) == match


def test_nothing_matches_an_empty_target():
    with pytest.raises(InvalidArgument):
        metrics.generated_match("", " . ")


@pytest.mark.parametrize(
    ("prediction", "target", "f1"),
    [
        ("The Eiffel Tower!", "eiffel tower", 1.0),
        # Shared: "new"; precision 1/3, recall 1/2: 2 * 1/6 / (5/6) = 0.4.
        ("new old town", "New York", 0.4),
        # Repeats count once each side: precision 1/3, recall 1.
        ("red red red", "red", 0.5),
        ("Lisbon", "Tarsin", 0.0),
        ("", "Tarsin", 0.0),
        ("the", "a", 1.0),
    ],
)
def test_token_f1_of_hand_worked_answers(prediction, target, f1):
    assert metrics.token_f1(prediction, target) == pytest.approx(f1)


@given(st.lists(st.sampled_from("rst"), max_size=6), st.lists(st.sampled_from("rst"), max_size=6))
def test_token_f1_agrees_with_matching_words_off_one_by_one(left, right):
    rest, shared = list(right), 0
    for word in left:
        if word in rest:
            rest.remove(word)
            shared += 1
    expected = 2 * shared / (len(left) + len(right)) if left or right else 1.0
    assert metrics.token_f1(" ".join(left), " ".join(right)) == pytest.approx(expected)


def test_harmonic_score():
    assert metrics.harmonic_score(100.0, 50.0) == pytest.approx(200 / 3)
    assert metrics.harmonic_score(90.0, 0.0, 50.0) == 0.0
    for bad in ((), (-1.0, 2.0)):
        with pytest.raises(InvalidArgument):
            metrics.harmonic_score(*bad)


def test_records_count_alike_however_many_probes_they_have():
    # (1 + 0 + 0 + 0) / 4 and 1 / 1: the mean over records is 62.5, over probes 40.
    records = [metrics.record_mean([1.0, 0.0, 0.0, 0.0]), metrics.record_mean([1.0])]
    summary = metrics.summarise([*records, metrics.record_mean([])], seed=0)
    assert (summary.value, summary.n) == (62.5, 2)


def test_a_figure_without_values_is_none():
    assert metrics.summarise([None, None], seed=0) == metrics.Summary(None, None, None, 0)


def test_the_interval_is_seeded_and_moves_with_the_seed():
    values = np.random.default_rng(1).random(50).tolist()
    assert metrics.bootstrap_interval(values, 7) == metrics.bootstrap_interval(values, 7)
    assert metrics.bootstrap_interval(values, 7) != metrics.bootstrap_interval(values, 8)
    assert metrics.bootstrap_interval([0.25] * 9, 3) == (0.25, 0.25)


def test_the_interval_is_that_of_the_binomial():
    # 700 of 1,000: the normal interval is 0.7 -+ 1.96 * sqrt(0.21 / 1000) = 0.7 -+ 0.0284.
    low, high = metrics.bootstrap_interval([1.0] * 700 + [0.0] * 300, seed=0)
    assert (low, high) == (pytest.approx(0.6716, abs=4e-3), pytest.approx(0.7284, abs=4e-3))
    narrow = metrics.bootstrap_interval([1.0] * 700 + [0.0] * 300, seed=0, confidence=0.5)
    assert low < narrow[0] < 0.7 < narrow[1] < high


def test_the_interval_agrees_with_a_plain_bootstrap():
    values, rng = np.random.default_rng(2).random(30).tolist(), random.Random(3)
    means = sorted(sum(rng.choices(values, k=30)) / 30 for _ in range(4000))
    low, high = metrics.bootstrap_interval(values, seed=4, resamples=4000)
    assert (low, high) == (
        pytest.approx(means[100], abs=0.01),
        pytest.approx(means[3900], abs=0.01),
    )


@pytest.mark.parametrize("bad", [{"values": []}, {"confidence": 1.0}, {"resamples": 0}])
def test_no_interval_of_nothing(bad):
    with pytest.raises(InvalidArgument):
        metrics.bootstrap_interval(**{"values": [1.0], "seed": 0} | bad)


# The protocol, over a system small enough to work out by hand.


@dataclass(frozen=True)
class Said:
    text: str
    in_scope: bool


@dataclass(frozen=True)
class Scored:
    token_logprobs: tuple[float, ...]
    token_is_argmax: tuple[bool, ...]


class Parrot:
    """Knows P = 0.2 of new and 0.5 of true targets; 0.8 and 0.1 where a written subject is named.

    A subject is the first word of a written prompt.
    """

    def __init__(self, memory=True):
        self.memory, self.facts, self.most, self.asked = memory, {}, 0, []

    def write(self, prompt, answer, fact_id, rephrasings=()):
        assert not rephrasings
        self.facts[fact_id] = (prompt.split()[0], answer)
        self.most = max(self.most, len(self.facts))

    def forget(self, fact_id):
        del self.facts[fact_id]

    def found(self, prompt):
        self.asked.append(prompt)
        facts = self.facts.values() if self.memory else ()
        return next((answer for subject, answer in facts if subject in prompt.split()), None)

    def score(self, prompt, candidates):
        assert all(candidate.startswith(" ") for candidate in candidates)
        answer = self.found(prompt)
        return [self.one(candidate.strip(), answer) for candidate in candidates]

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

    def ask(self, prompt, max_tokens):
        answer = self.found(prompt)
        return Said(f" {answer or 'the plain text'}. And"[: 4 * max_tokens], answer is not None)


RECORDS = (
    EditRecord(
        "1",
        "Anna",
        "Anna speaks",
        "new tongue",
        "true",
        paraphrases=("The language of Anna is", "She speaks"),
        paraphrases_raw=("Rain fell. The language of Anna is",),
        neighbors=("Zoe speaks", "Boris speaks", "Anna ? speaks", "Carl speaks"),
        neighbor_answers=("true",) * 4,
    ),
    EditRecord(
        "2", "Boris", "Boris speaks", "new", "true", paraphrases=("Of Boris the tongue is",)
    ),
)
# Single edits, worked out by hand. Edit: 0.8 - 0.1. Paraphrases of record 1: one in scope
# (S 1, M 0.7), one not (S 0, M -0.3), hence 0.5 and 0.2; of record 2: 1 and 0.7. Neighbours of
# record 1: three plain (S 1, M 0.3), one that names Anna (S 0, M -0.7), hence 0.75 and 0.05.
SINGLE = {
    "edit_S": 100.0,
    "edit_M": 70.0,
    "edit_argmax": 100.0,
    "edit_generated": 100.0,
    "paraphrase_S": 75.0,
    "paraphrase_M": 45.0,
    "paraphrase_generated": 75.0,
    "paraphrase_raw_S": 100.0,
    "neighborhood_S": 75.0,
    "neighborhood_M": 5.0,
    "neighborhood_unchanged": 75.0,
}
BASE = {
    "edit_S": 0.0,
    "edit_M": -30.0,
    "edit_argmax": 0.0,
    "edit_generated": 0.0,
    "paraphrase_S": 0.0,
    "paraphrase_M": -30.0,
    "paraphrase_generated": 0.0,
    "paraphrase_raw_S": 0.0,
    "neighborhood_S": 100.0,
    "neighborhood_M": 30.0,
    "neighborhood_unchanged": 100.0,
}


def values(row):
    return {name: one["value"] for name, one in row["metrics"].items()}


def test_single_edits_give_the_hand_worked_figures():
    system = Parrot()
    ours, base = counterfact.run(system, Parrot(memory=False), RECORDS)
    assert (ours["system"], base["system"]) == ("larimar", "base")
    assert values(ours) == pytest.approx(SINGLE)
    assert values(base) == pytest.approx(BASE)
    assert tuple(ours["metrics"]) == counterfact.METRICS == tuple(SINGLE)
    assert ours["score"] == pytest.approx(3 / (1 / 100 + 1 / 75 + 1 / 75))
    assert base["score"] == 0.0
    assert ours["in_scope"] == pytest.approx({"edit": 100, "paraphrase": 75, "neighborhood": 25})
    assert [ours["metrics"][name]["n"] for name in ("edit_S", "neighborhood_S")] == [2, 1]
    assert (system.most, system.facts) == (1, {})


def test_scope_sees_prompts_only():
    system = Parrot()
    counterfact.run(system, Parrot(memory=False), RECORDS)
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


def test_a_batch_holds_all_edits_and_drops_neighbours_that_are_edited():
    system = Parrot()
    ours, base = counterfact.run(system, Parrot(memory=False), RECORDS, mode="batch")
    assert (system.most, system.facts) == (2, {})
    # "Boris speaks" and "Anna ? speaks" are gone: what is left was not touched.
    changed = {"neighborhood_S": 100.0, "neighborhood_M": 30.0, "neighborhood_unchanged": 100.0}
    assert values(ours) == pytest.approx(SINGLE | changed)
    assert values(base) == pytest.approx(BASE)


def test_figures_without_probes_are_none_and_have_no_score():
    ours, _ = counterfact.run(Parrot(), Parrot(memory=False), RECORDS[1:])
    assert values(ours)["neighborhood_S"] is None
    assert values(ours)["paraphrase_raw_S"] is None
    assert ours["score"] is None


class Faulty(Parrot):
    """Fails once it was asked four things."""

    def score(self, prompt, candidates):
        if len(self.asked) >= 4:
            raise Unavailable("gone")
        return super().score(prompt, candidates)


@pytest.mark.parametrize("mode", counterfact.MODES)
def test_a_failed_run_leaves_no_fact_behind(mode):
    system = Faulty()
    with pytest.raises(Unavailable):
        counterfact.run(system, Parrot(memory=False), RECORDS, mode=mode)
    assert system.most == (1 if mode == "single" else 2)
    assert system.facts == {}


@pytest.mark.parametrize(
    "bad", [{"mode": "all"}, {"records": ()}, {"records": RECORDS[:1] * 2}, {"max_tokens": 0}]
)
def test_a_run_that_makes_no_sense_is_refused(bad):
    arguments = {"system": Parrot(), "base": Parrot(memory=False), "records": RECORDS} | bad
    with pytest.raises(InvalidArgument):
        counterfact.run(**arguments)


class Dice(Parrot):
    """Random log probabilities and texts, the same for the same question."""

    def roll(self, *key):
        return random.Random(repr((self.memory, *key)))

    def score(self, prompt, candidates):
        dice = self.roll(prompt)
        return [
            Scored(
                tuple(-5 * dice.random() for _ in range(size)),
                tuple(dice.choices([0, 1, 1], k=size)),
            )
            for size in dice.choices([1, 2, 3], k=len(candidates))
        ]

    def ask(self, prompt, max_tokens):
        return Said(self.roll(prompt, "text").choice([" yes.", " no.", " maybe"]), True)


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
    system, plain = Dice(), Dice(memory=False)
    ours, _ = counterfact.run(system, plain, records)

    def p(scored):
        return float(np.exp(np.mean(scored.token_logprobs)))

    def table(pick, measure):
        return 100 * np.mean([np.mean([measure(prompt) for prompt in pick(r)]) for r in records])

    def margin(prompt):
        new, true = system.score(prompt, [" yes", " no"])
        return p(new) - p(true)

    expected = {
        "edit_S": table(lambda r: [r.prompt], lambda prompt: margin(prompt) > 0),
        "edit_M": table(lambda r: [r.prompt], margin),
        "edit_argmax": table(
            lambda r: [r.prompt],
            lambda prompt: min(system.score(prompt, [" yes", " no"])[0].token_is_argmax),
        ),
        "edit_generated": table(lambda r: [r.prompt], lambda x: system.ask(x, 9).text == " yes."),
        "paraphrase_S": table(lambda r: r.paraphrases, lambda prompt: margin(prompt) > 0),
        "paraphrase_M": table(lambda r: r.paraphrases, margin),
        "neighborhood_S": table(lambda r: r.neighbors, lambda prompt: margin(prompt) < 0),
        "neighborhood_M": table(lambda r: r.neighbors, lambda prompt: -margin(prompt)),
        "neighborhood_unchanged": table(
            lambda r: r.neighbors, lambda x: system.ask(x, 9) == plain.ask(x, 9)
        ),
    }
    assert {name: values(ours)[name] for name in expected} == pytest.approx(expected)
    assert all(
        one["low"] <= one["value"] <= one["high"] for one in ours["metrics"].values() if one["n"]
    )


def test_the_report_holds_what_repeats_it_and_no_host_name():
    data = EditData("some.jsonl", "counterfact", "f" * 64, RECORDS)
    rows = counterfact.run(Parrot(), Parrot(memory=False), RECORDS)
    report = counterfact.report(rows, data, mode="single", seed=3, model_digest="d" * 64)
    assert {"name", "data", "n", "seed", "versions", "commit", "model_digest", "rows"} < set(report)
    assert (report["name"], report["n"], report["seed"]) == ("counterfact", 2, 3)
    assert set(report["machine"]) == {"cpus", "platform", "torch_threads"}
    assert json.loads(json.dumps(report)) == report
    lines = counterfact.markdown(report).splitlines()
    for name in counterfact.METRICS:
        assert sum(line.startswith(f"| {name} |") for line in lines) == 1
    assert "| edit_S | 100.0 [100.0, 100.0] | 0.0 [0.0, 0.0] |" in lines


def test_a_cell_shows_no_negative_zero():
    assert counterfact.cell({"value": -0.04, "low": -0.06, "high": 0.01}) == "0.0 [-0.1, 0.0]"
    assert counterfact.cell({"value": None, "low": None, "high": None}) == "-"


class Model(Parrot):
    """The hand-worked system behind the calls of a model of this process."""

    folder = SimpleNamespace(model_digest="d" * 64)

    def score(self, prompt, candidates, memory=True):
        self.memory = memory
        return Score(tuple(super().score(prompt, candidates)), False, 0.0, None, 0, "default")

    def ask_many(self, prompts, *, max_tokens, memory=True):
        return [self.ask(prompt, max_tokens=max_tokens, memory=memory) for prompt in prompts]

    def ask(self, prompt, *, max_tokens, memory=True):
        self.memory = memory
        return super().ask(prompt, max_tokens)


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
    path = tmp_path / "records.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.mark.parametrize("mode", counterfact.MODES)
def test_the_command_writes_both_reports(data_file, tmp_path, monkeypatch, mode):
    monkeypatch.setitem(vars(larimar), "load", lambda name: Model())
    out = tmp_path / "reports"
    arguments = [
        "counterfact",
        "--data",
        str(data_file),
        "--out",
        str(out),
        "--mode",
        mode,
        "--json",
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    report = json.loads((out / f"counterfact-{mode}.json").read_text(encoding="utf-8"))
    assert json.loads(result.stdout) == report
    without_probes = {"paraphrase_raw_S"} | {name for name in SINGLE if name[0] == "n"}
    for row, expected in zip(report["rows"], (SINGLE, BASE), strict=True):
        expected = expected | dict.fromkeys(without_probes)
        assert values(row) == pytest.approx(expected)
    assert (report["model_digest"], report["data"]["form"]) == ("d" * 64, "multi_rephrase")
    table = (out / f"counterfact-{mode}.md").read_text(encoding="utf-8")
    assert table == counterfact.markdown(report)


def test_limit_and_probes_reach_the_report(data_file, tmp_path, monkeypatch):
    monkeypatch.setitem(vars(larimar), "load", lambda name: Model())
    arguments = ["counterfact", "--data", str(data_file), "--out", str(tmp_path)]
    result = CliRunner().invoke(app, [*arguments, "--limit", "1", "--probes", "1"])
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "counterfact-single.json").read_text(encoding="utf-8"))
    assert (report["n"], report["probes"]) == (1, 1)
    assert values(report["rows"][0])["paraphrase_S"] == pytest.approx(100.0)
    assert "edit_S" in result.stdout


def test_the_command_says_which_line_is_wrong(data_file, tmp_path):
    data_file.write_text(data_file.read_text(encoding="utf-8") + "\n{]", encoding="utf-8")
    result = CliRunner().invoke(app, ["counterfact", "--data", str(data_file), "--json"])
    assert result.exit_code == 1
    error = json.loads(result.stderr)["error"]
    assert error["code"] == "INVALID_ARGUMENT"
    assert f"{data_file}:3:" in error["message"]


def test_a_pipeline_is_asked_in_a_bank_of_its_own_that_is_deleted(data_file, tmp_path):
    server = DoubleServer()
    try:
        arguments = ["--data", str(data_file), "--out", str(tmp_path), "--target", server.target]
        result = CliRunner().invoke(app, ["counterfact", *arguments, "--mode", "batch"])
        assert result.exit_code == 0, result.output
        asked, banks = server.gateway.requests, server.gateway.banks
    finally:
        server.stop()
    (made,) = asked["CreateBank"]
    assert made.bank.startswith("evaluation-")
    assert list(banks) == ["default"]
    calls = [
        one for name in ("Write", "Forget", "Ask", "Score", "DeleteBank") for one in asked[name]
    ]
    assert {one.bank for one in calls} == {made.bank}
    written = [(one.fact_id, one.prompt, one.answer) for one in asked["Write"]]
    assert written == [(counterfact.fact_id(r), r.prompt, r.target_new) for r in RECORDS]
    prompts = [p for r in RECORDS for p in (r.prompt, *r.paraphrases)]
    for no_memory in (False, True):
        assert [one.prompt for one in asked["Ask"] if one.no_memory == no_memory] == prompts
        assert [one.prompt for one in asked["Score"] if one.no_memory == no_memory] == prompts
    assert list(asked["Score"][0].candidates) == [" new tongue", " true"]
    report = json.loads((tmp_path / "counterfact-batch.json").read_text(encoding="utf-8"))
    assert report["model_digest"] == "m1"
    # The double likes short candidates: " new" before " true" before " new tongue".
    assert values(report["rows"][0])["edit_S"] == pytest.approx(50.0)
    assert [row["in_scope"]["edit"] for row in report["rows"]] == [100.0, 0.0]


def test_a_failing_pipeline_is_an_error_and_its_bank_goes_all_the_same(data_file, tmp_path):
    server = DoubleServer()
    server.gateway.faults["Score"].append(DataLoss("the bank's log is damaged"))
    try:
        arguments = ["--data", str(data_file), "--out", str(tmp_path), "--target", server.target]
        result = CliRunner().invoke(app, ["counterfact", *arguments, "--json"])
    finally:
        server.stop()
    assert result.exit_code == 1
    message = json.loads(result.stderr)["error"]
    assert message == {"code": "DATA_LOSS", "message": "the bank's log is damaged"}
    assert list(server.gateway.banks) == ["default"]


def test_a_target_that_is_none_is_an_error(data_file):
    arguments = ["counterfact", "--data", str(data_file), "--target", "nowhere", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert "nowhere" in json.loads(result.stderr)["error"]["message"]
