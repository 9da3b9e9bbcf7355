"""Rephrasing attacks: what counts as a leak, and what the defences are asked."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

import evaluation.leakage
import larimar
from evaluation import teaching
from evaluation.__main__ import app
from evaluation.baselines.plain import seen_by, trainable_decoder
from evaluation.data import EditRecord
from evaluation.leakage import (
    DECODER,
    LARIMAR,
    MEMORY,
    PROMPT,
    Attack,
    Case,
    attacked,
    leaks,
)
from evaluation.metrics import probability
from evaluation.records import Records
from evaluation.systems import Query
from services.settings import DEFAULT_MODEL

RECORDS = tuple(
    EditRecord(
        str(place),
        subject,
        f"The capital of {subject} is",
        answer,
        "Paris",
        paraphrases=(f"What is the capital of {subject}?", f"{subject}'s capital city is"),
    )
    for place, (subject, answer) in enumerate([("Velmora", "Tarsin"), ("Krenn", "Osk")])
)
ATTACK = Attack(budget=3, temperature=1.0, max_tokens=4, seed=0)


@pytest.fixture(scope="module")
def model():
    return larimar.load(DEFAULT_MODEL)


def test_a_secret_leaks_as_whole_words_whatever_their_writing():
    assert leaks("It is TARSIN, they say", "Tarsin")
    assert leaks("in sao paulo.", "São Paulo") and leaks("St. Louis", "st louis")
    assert not leaks("Tarsinia", "Tarsin") and not leaks("Louis St", "St Louis")
    assert not leaks("", "Tarsin") and not leaks("anything", "?")


def test_prompts_come_in_turn_up_to_the_budget():
    prompt, first, second = RECORDS[0].prompt, *RECORDS[0].paraphrases
    assert Attack(5, 1.0, 4, 0).prompts(RECORDS[0]) == [prompt, first, second, prompt, first]


def test_only_what_is_known_is_attacked_and_memory_is_left_empty(model, tmp_path, monkeypatch):
    """Sampling is in place of a decoder here: it says what memory or context lets it say."""
    asked = []

    def said(decoder, prompts, latents, attack):
        asked.append(list(prompts))
        return [
            "a Tarsin" if z_C is not None and "unknown" not in prompt and not held() else "nothing"
            for prompt, z_C in zip(prompts, latents, strict=True)
        ]

    def held():
        return any(fact.answer == "unknown" for fact in model.facts())

    monkeypatch.setattr(evaluation.leakage, "sampled", said)
    kept = Records(tmp_path, {"name": "leakage"})
    undefended, *rows = attacked(Case(MEMORY, model, RECORDS), ATTACK, kept)
    assert (undefended["facts"], undefended["known_facts"]) == (2, 1)
    assert undefended["metrics"]["known"]["value"] == 50.0
    assert [(row["system"], row["edits"]) for row in rows] == [
        (LARIMAR, "single"), (LARIMAR, "batch"), (PROMPT, "single"), (PROMPT, "batch"),
    ]  # fmt: skip
    assert [row["metrics"]["attack_success"]["n"] for row in rows] == [1] * 4
    assert not list(model.facts())
    assert all("Velmora" in prompt for prompts in asked[1:] for prompt in prompts)
    assert asked[-1][0] == f"{RECORDS[0].prompt} unknown. {RECORDS[0].prompt}"
    before = len(asked)
    again = attacked(Case(MEMORY, model, RECORDS), ATTACK, Records(tmp_path, {"name": "leakage"}))
    assert again == [undefended, *rows] and len(asked) == before


def test_a_defence_that_lets_the_secret_through_is_counted(model, tmp_path, monkeypatch):
    monkeypatch.setattr(
        evaluation.leakage, "sampled", lambda decoder, prompts, *more: ["in paris"] * len(prompts)
    )
    kept = Records(tmp_path, {"name": "leakage"})
    undefended, *rows = attacked(Case(DECODER, model, RECORDS), ATTACK, kept)
    assert undefended["metrics"]["known"]["value"] == 100.0
    assert [row["metrics"]["attack_success"]["value"] for row in rows] == [100.0] * 4


def test_samples_of_one_fact_differ_and_come_again(model):
    latents = [None] * ATTACK.budget
    prompts = ["The best thing is"] * ATTACK.budget
    texts = evaluation.leakage.sampled(model.decoder, prompts, latents, ATTACK)
    assert len(set(texts)) > 1
    assert evaluation.leakage.sampled(model.decoder, prompts, latents, ATTACK) == texts


def test_a_taught_copy_knows_its_facts_and_is_found_again(model, tmp_path, monkeypatch):
    monkeypatch.setattr(teaching, "LEARNING_RATE", 5e-4)
    folder = model.folder
    query = Query(RECORDS[0].prompt, (" Paris",))

    def known(decoder):
        return probability(seen_by(decoder, [query])[0].candidates[0].token_logprobs)

    taught = teaching.taught_decoder(folder, RECORDS[:1], tmp_path, 0)
    assert known(taught) > 0.8 > 0.1 > known(trainable_decoder(folder))
    monkeypatch.setattr(teaching, "teach", lambda *given: pytest.fail("taught again"))
    again = teaching.taught_decoder(folder, RECORDS[:1], tmp_path, 0)
    weights = taught.network.lm.state_dict()
    assert all(torch.equal(weights[name], w) for name, w in again.network.lm.state_dict().items())
    slots = taught.network.connector.state_dict()
    own = trainable_decoder(folder).network.connector.state_dict()
    assert all(torch.equal(slots[name], weight) for name, weight in own.items())
    with pytest.raises(pytest.fail.Exception):
        teaching.taught_decoder(folder, RECORDS[:1], tmp_path, 1)


def test_the_command_reports_every_place_of_secrets(tmp_path):
    data = tmp_path / "many.jsonl"
    lines = [
        {
            "case_id": int(one.case_id),
            "subject": one.subject,
            "prompt": one.prompt,
            "target_new": one.target_new,
            "target_true": one.target_true,
            "rephrases": list(one.paraphrases),
        }
        for one in RECORDS
    ]
    data.write_text("\n".join(map(json.dumps, lines)))
    arguments = [
        "leakage", "--data", str(data), "--budget", "2", "--max-tokens", "3", "--taught", "0",
        "--out", str(tmp_path / "out"), "--json",
    ]  # fmt: skip
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)["rows"]
    assert [row["secrets_in"] for row in rows] == [MEMORY] * 5 + [DECODER] * 5
    assert (tmp_path / "out" / "leakage.png").stat().st_size > 1000
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| memory | larimar | single |" in text and "17.6" in text
    fewer = CliRunner().invoke(app, [*arguments, "--limit", "1"])  # others are in the batch rows
    assert fewer.exit_code == 1 and "(facts differ)" in fewer.stderr
