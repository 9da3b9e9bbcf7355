"""Times of edits and questions, in a bank of a parrot and in one of the shipped model."""

from __future__ import annotations

import time

import pytest

import evaluation.speed
import larimar
from evaluation.edits import fact_of, probes_at
from evaluation.speed import EDIT_STAGES, METRICS, QUERY_STAGES, Stopwatch, timed
from evaluation.systems import BASE, LARIMAR, InProcess, Query
from larimar.errors import InvalidArgument
from services.settings import DEFAULT_MODEL
from tests.banked_parrot import (
    BankedParrot,
    data_file,
    invoked,
    opened_parrot,
    records_of,
    refused,
)


class Sleeper:
    def nap(self, seconds):
        time.sleep(seconds)
        return seconds


def test_a_stopwatch_times_a_method_and_lets_it_go():
    sleeper, watch = Sleeper(), Stopwatch()
    with watch.on(sleeper, "nap", "sleep"):
        watch.lap(1)
        assert sleeper.nap(0.02) == sleeper.nap(0.02) == 0.02
        found = watch.lap(2)
        assert 0.02 <= found["sleep"] <= found["total"]
        assert "sleep" not in watch.lap(1)
    assert "nap" not in vars(sleeper)


def test_a_system_without_parts_gives_the_whole(tmp_path, monkeypatch):
    system = BankedParrot()
    monkeypatch.setattr(evaluation.speed, "opened", opened_parrot(system))
    data = data_file(tmp_path / "facts.jsonl", 5)
    arguments = ("speed", "--data", data, "--out", tmp_path / "out")
    report = invoked(*arguments, "--sizes", "1,2")
    assert [(r["system"], r["facts"]) for r in report["rows"]] == [
        ("larimar", 1),
        ("larimar", 2),
        ("base", 1),
        ("base", 2),
    ]
    ours, base = report["rows"][1], report["rows"][3]
    assert set(ours["metrics"]) == {"seconds_per_edit", "seconds_per_query"}
    assert set(base["metrics"]) == {"seconds_per_query"}
    assert ours["metrics"]["seconds_per_edit"]["n"] == 2
    # Each size: a batch that warms up, then whole batches only.
    assert [len(facts) for facts in system.wrote] == [1] * 6 + [2] * 3
    assert "5 facts for batches of 9" in refused(*arguments, "--sizes", "9")


@pytest.fixture(scope="module")
def model():
    return larimar.load(DEFAULT_MODEL)


def test_the_parts_of_a_model_add_up_to_the_whole(model):
    with InProcess(model).new_bank() as bank:
        found = timed(bank, records_of(2), 2, max_tokens=2)
        [edits], [queries] = found["edits"], found["queries"]
    for lap, stages in ((edits, EDIT_STAGES), (queries, QUERY_STAGES)):
        assert set(lap) == {*stages, "total"}
        assert 0 < sum(lap[stage] for stage in stages) <= lap["total"]
    assert set(found["base"][0]) == {"decode", "total"}
    assert "embed" not in vars(model.embedder)
    assert set(METRICS) >= {f"edit_{stage}_seconds" for stage in EDIT_STAGES}


def test_a_new_bank_leaves_the_first_one_alone(model):
    system, [record] = InProcess(model), records_of(1)
    with system.new_bank("pinv", 8) as bank:
        bank.write([fact_of(record)])
        assert bank.model.state.config.slots == 8
        assert (len(bank.model.state), len(model.state)) == (1, 0)
        assert bank.bank_digest() != system.bank_digest()
    with pytest.raises(InvalidArgument), system.new_bank("slots", 8):
        pass


def test_what_was_said_is_remembered_for_the_same_latent_only(model, monkeypatch):
    record, other = records_of(2)
    with InProcess(model).new_bank() as bank:
        bank.write([fact_of(record), fact_of(other)])
        queries = [
            Query(one.prompt, (f" {one.target_new}", " French"), 3) for one in (record, other)
        ]
        held = [one for view in (LARIMAR, BASE) for one in bank.read(queries, view)]
        plain = bank.decode(held)
        assert bank.decode(held, remember=True) == plain
        decoded = []
        monkeypatch.setattr(bank, "_decoded", lambda held: decoded.append(len(held)) or [])
        assert bank.decode(held, remember=True) == plain
        assert decoded == [0]
        assert plain[0].candidates != plain[2].candidates


def test_probes_are_those_of_the_system(model):
    [record] = records_of(1)
    with InProcess(model).new_bank() as bank:
        bank.write([fact_of(record)])
        inside, outside = probes_at(
            bank, [(record, record.prompt), (record, "A recipe for soup begins with")], max_tokens=2
        )
        score = bank.model.score(record.prompt, (f" {record.target_new}", " true"))
    assert (inside.in_scope, outside.in_scope) == (True, False)
    assert inside.new.token_logprobs == pytest.approx(score.candidates[0].token_logprobs, abs=0.2)
