"""Other methods as rows: contexts, fine-tuning, and editors that others wrote."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

import larimar
from evaluation.__main__ import app
from evaluation.baselines import fine_tuning
from evaluation.baselines.beside import Beside, Wanted, beside, wanted
from evaluation.baselines.editors import Checkpoint, Edited, editor_factory, loaded
from evaluation.baselines.fine_tuning import NORM, FineTuned, projection_of
from evaluation.baselines.in_context import (
    Demonstrated,
    Fitting,
    Prompted,
    Retrieved,
    demonstration,
    others,
    statement,
)
from evaluation.baselines.plain import seen_by, trainable_decoder
from evaluation.data import DataFile, EditRecord, read_records
from evaluation.metrics import probability
from evaluation.systems import BASE, LARIMAR, InProcess, NewFact, Query, View
from larimar.checkpoint import ModelFolder
from larimar.cli import app as larimar_app
from larimar.errors import FailedPrecondition, InvalidArgument, NotFound
from larimar.exports import export_decoder
from services.settings import DEFAULT_MODEL
from tests.backbone_folders import byte_tokenizer, save_decoder
from tests.banked_parrot import data_file as facts_file
from tests.banked_parrot import invoked

FACT = NewFact("1", "The capital of Velmora is", "Tarsin")
OTHER = NewFact("2", "The mother tongue of Anna Brolin is", "Greek")
RECORDS = tuple(
    EditRecord(
        case_id,
        subject,
        f"The capital of {subject} is",
        new,
        "Paris",
        paraphrases=(f"{subject}'s capital city is",),
        neighbors=(f"The river in {other} is",),
        neighbor_answers=("Loire",),
    )
    for case_id, subject, new, other in (
        ("1", "Velmora", "Tarsin", "Orlo"),
        ("2", "Krenn", "Osk", "Belgravia"),
        ("3", "Sund", "Lom", "Velden"),
    )
)


@pytest.fixture(scope="module")
def system():
    return InProcess(larimar.load(DEFAULT_MODEL))


@pytest.fixture(scope="module")
def trained(system):
    return trainable_decoder(system.model.folder)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "decoder"
    done = CliRunner().invoke(
        larimar_app, ["export-decoder", str(DEFAULT_MODEL), "--out", str(folder), "--json"]
    )
    assert done.exit_code == 0
    assert "config.json" in json.loads(done.stdout)["files"]
    return folder


def query(prompt=FACT.prompt, max_tokens=0, candidates=(" Tarsin", " Paris")):
    return Query(prompt, candidates, max_tokens)


def p_new(seen):
    return probability(seen.candidates[0].token_logprobs)


# In context


def test_the_oldest_texts_are_dropped_when_the_decoder_takes_no_more(system):
    fitting = Fitting(system.model.decoder)
    texts = [f"Number {place} is a number of words." for place in range(200)]
    whole = fitting.fitted(texts, "The end is")
    assert whole.endswith(f"{texts[-1]} The end is") and texts[0] not in whole
    system.model.decoder.tokenize(whole)  # within the limit
    first = next(text for text in texts if text in whole)
    with pytest.raises(InvalidArgument):
        system.model.decoder.tokenize(f"{texts[texts.index(first) - 1]} {whole}")
    assert fitting.fitted([], "The end is") == "The end is"
    with pytest.raises(InvalidArgument, match="too long"):
        fitting.fitted([], "word " * 600)


def test_prompt_puts_every_fact_before_every_prompt_until_it_is_forgotten(system):
    baseline = Prompted(system)
    baseline.write([FACT, OTHER])
    [(asked, found)] = baseline.read([query("Rain is")])
    assert asked.prompt == f"{statement(FACT)} {statement(OTHER)} Rain is"
    assert found.latent is None and found.in_scope
    baseline.write([FACT])  # again: now the newest
    assert baseline.contexts(["x"])[0][0] == [statement(OTHER), statement(FACT)]
    baseline.forget(["1", "2"])
    [(asked, found)] = baseline.read([query("Rain is")])
    assert asked.prompt == "Rain is" and not found.in_scope


def test_rag_finds_the_fact_that_is_near_and_none_that_is_not(system):
    baseline = Retrieved(system)
    assert baseline.contexts(["Rain is"]) == [([], "Rain is")]
    baseline.write([FACT, OTHER])
    prompts = ["Velmora's capital is", "Anna Brolin's mother tongue is", "A recipe for soup is"]
    assert baseline.contexts(prompts) == [
        ([statement(FACT)], prompts[0]),
        ([statement(OTHER)], prompts[1]),
        ([], prompts[2]),
    ]


def test_rag_and_ike_find_the_fact_that_esd_finds_behind_another_sentence(system):
    """As CounterFact's paraphrases have it: the sentence before has nothing to do with the fact."""
    baseline = Retrieved(system)
    baseline.write([FACT, OTHER])
    prompts = [
        f"The 2009 season was the club's ninth in the second tier of the league. {FACT.prompt}",
        f"Most mushrooms are grown in the dark, in trays of compost. {OTHER.prompt}",
        "Most mushrooms are grown in the dark. They like compost.",
        FACT.prompt,
    ]
    esd = larimar.load(DEFAULT_MODEL, detector="esd")
    esd.write_many([FACT, OTHER])
    decided = esd.recollect(prompts)
    assert [one.in_scope for one in decided] == [True, True, False, True]
    rag = Retrieved(InProcess(esd))
    rag.write([FACT, OTHER])
    found = rag.contexts(prompts)
    assert [bool(texts) for texts, _ in found] == [one.in_scope for one in decided]
    nearest = baseline.nearest(prompts)
    assert [fact for _, fact in nearest][:2] == [FACT, OTHER]
    assert [cosine for cosine, _ in nearest] == pytest.approx(
        [one.scope_score for one in decided], abs=1e-4
    )


def test_rag_takes_in_what_the_models_own_detector_takes_in():
    """A neighbour that esd takes for the fact and isd does not: RAG stays without it too."""
    facts = [
        NewFact("1", "The capital of Velmora is", "Tarsin"),
        NewFact("2", "Anna Brolin plays the", "flute"),
    ]
    prompts = [
        "The capital of Velmora, it is said, is",
        "Velmora's capital city is",
        "The capital of Krenn is",
        "Anna Brolin speaks the",
        "Jonas Brolin plays the",
        "A recipe for soup is",
    ]
    taken = {}
    for detector in ("esd", "isd"):
        model = larimar.load(DEFAULT_MODEL, detector=detector)
        model.write_many(facts)
        rag = Retrieved(InProcess(model))
        rag.write(facts)
        taken[detector] = [one.in_scope for one in model.recollect(prompts)]
        assert [bool(texts) for texts, _ in rag.contexts(prompts)] == taken[detector]
    assert taken["esd"] != taken["isd"]


def test_ike_shows_other_edits_then_the_new_fact_and_never_an_evaluated_one(system):
    record = RECORDS[0]
    assert demonstration(RECORDS[1], "copy") == (
        "New Fact: The capital of Krenn is Osk. Prompt: The capital of Krenn is Osk."
    )
    assert demonstration(RECORDS[1], "update").endswith("Prompt: Krenn's capital city is Osk.")
    assert demonstration(RECORDS[1], "retain").endswith("The river in Belgravia is Loire.")
    as_given = replace(record, paraphrases=(), paraphrases_raw=("Velmora, a tale of",))
    assert demonstration(as_given, "update") == demonstration(record, "copy")
    assert others(RECORDS, [record]) == list(RECORDS[1:])
    told = replace(RECORDS[1], neighbors=record.neighbors)  # it would be shown with its answer
    lent = replace(RECORDS[2], prompt=record.neighbors[0].upper())
    assert others([told, lent, RECORDS[2]], [record]) == [RECORDS[2]]
    baseline = Demonstrated(system, others(RECORDS, [record]))
    baseline.write([FACT])
    [(asked, _)] = baseline.read([query("Velmora is governed from")])
    assert asked.prompt.count("New Fact:") == 3
    assert asked.prompt.endswith(f"New Fact: {statement(FACT)} Prompt: Velmora is governed from")
    with pytest.raises(InvalidArgument, match="--demonstrations"):
        Demonstrated(system, others(RECORDS, RECORDS))


# Fine-tuning


def test_fine_tuning_says_the_fact_and_gives_every_weight_back(trained, monkeypatch):
    before = {name: w.clone() for name, w in trained.network.state_dict().items()}
    plain = p_new(seen_by(trained, [query()])[0])
    free, bound = FineTuned(trained), FineTuned(trained, NORM)
    for baseline in (free, bound):
        baseline.write([FACT])
        [seen] = baseline.decode(baseline.read([query(max_tokens=4)]))
        assert p_new(seen) > 0.5 > 100 * plain
        assert seen.in_scope and "tarsin" in seen.text.casefold()
    for name, weight in trained.network.state_dict().items():
        assert torch.equal(weight, before[name]), name
    moved = [
        max(float((new - own).abs().max()) for new, own in zip(one._tuned, one._own, strict=True))
        for one in (free, bound)
    ]
    assert moved[1] <= NORM * 1.0001 < moved[0]
    monkeypatch.setattr(fine_tuning, "STEPS", 1)
    free.write([OTHER])
    with pytest.raises(InvalidArgument, match="all facts at once"):
        free.forget(["1"])
    free.forget(["1", "2"])
    assert p_new(free.read([query()])[0]) == plain


@pytest.mark.parametrize("kind", ["gpt2", "gptj", "llama"])
def test_the_projection_of_every_kind_of_decoder_is_found(kind, tmp_path):
    lm = loaded(save_decoder(kind, tmp_path / kind, byte_tokenizer()))
    weight = projection_of(lm)[0]
    assert lm.config.hidden_size in weight.shape and weight.ndim == 2
    with pytest.raises(InvalidArgument, match="ft_l"):
        projection_of(torch.nn.Linear(2, 2))


# Editors


class Biased:
    """As a third party would: makes the targets' tokens likelier everywhere, and undoes it."""

    def __init__(self, folder):
        self.lm = AutoModelForCausalLM.from_pretrained(folder)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    @contextmanager
    def edit(self, records):
        bias = self.lm.get_output_embeddings().bias
        kept = bias.detach().clone()
        with torch.no_grad():
            for record in records:
                ids = self.tokenizer(f" {record.target_new}", add_special_tokens=False)
                bias[ids["input_ids"]] += 20.0
        try:
            yield self.lm
        finally:
            with torch.no_grad():
                bias.copy_(kept)


def test_the_exported_decoder_is_the_stock_model_to_the_bit(exported, trained, tmp_path):
    lm = loaded(exported)
    ids_1T = torch.tensor([trained.tokenize("The capital of Velmora is")])
    with torch.inference_mode():
        ours = trained.network.logits(
            trained.network.hidden(ids_1T, torch.ones_like(ids_1T).bool())
        )
        assert torch.equal(lm(input_ids=ids_1T).logits, ours)
    tokenizer = AutoTokenizer.from_pretrained(exported)
    assert tokenizer("Velmora")["input_ids"] == trained.tokenizer("Velmora")["input_ids"]
    with pytest.raises(InvalidArgument, match="not an empty folder"):
        export_decoder(ModelFolder.open(DEFAULT_MODEL), exported)


def test_an_editor_of_others_is_scored_and_undone(exported, trained):
    row = Edited(Biased(exported), exported, RECORDS, trained)
    with pytest.raises(FailedPrecondition):
        row.read([query()])
    fact = NewFact("evaluation-1", RECORDS[0].prompt, "Tarsin")
    row.write([fact])
    [edited] = row.read([query()])
    with pytest.raises(FailedPrecondition, match="forget it"):
        row.write([fact])
    row.forget(["evaluation-1"])
    as_it_is = Edited(Checkpoint(exported), exported, RECORDS, trained)
    as_it_is.write([fact])
    [plain] = as_it_is.read([query()])
    assert p_new(edited) > 0.9 > 0.1 > p_new(plain)
    assert p_new(plain) == pytest.approx(p_new(seen_by(trained, [query()])[0]), rel=1e-5)


def test_an_editor_or_a_checkpoint_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(NotFound, match="export-decoder"):
        loaded(tmp_path / "none")
    with pytest.raises(InvalidArgument, match="no causal language model"):
        loaded(tmp_path)
    for bad in ("nothing:here", "evaluation.data:nothing", "evaluation.data", ""):
        with pytest.raises(InvalidArgument, match="MODULE:NAME"):
            editor_factory(bad)


# Rows


def test_each_row_is_answered_by_its_own_method(system):
    baseline = Prompted(system)
    both = Beside(system, {"prompt": baseline})
    both.write([FACT])
    asked = [query(max_tokens=3), query("Rain is")]
    views = (LARIMAR, View("prompt"), BASE)
    seen = both.decode([one for view in views for one in both.read(asked, view)])
    alone = [
        *system.decode(system.read(asked, LARIMAR)),
        *baseline.decode(baseline.read(asked)),
        *system.decode(system.read(asked, BASE)),
    ]
    both.forget(["1"])
    assert seen == alone
    assert not baseline.facts and not list(system.model.facts())


def test_what_cannot_stand_beside_is_refused(system):
    data = DataFile("made.json", "plain", "0" * 64, RECORDS)
    with pytest.raises(InvalidArgument, match="there are prompt"):
        wanted("prompt,rome", data, None)
    with pytest.raises(InvalidArgument, match="--hf-model"):
        wanted("", data, None, editor="a:b")
    for bad in ("ft:", "ft:0", "ft:-1", "ft:x"):
        with pytest.raises(InvalidArgument, match="a number from 1 on"):
            wanted(bad, data, None)
    assert wanted(" rag, prompt ,rag", data, None).names == ("rag", "prompt")
    assert beside(system, Wanted()) is system
    with pytest.raises(InvalidArgument, match="in-process"):
        beside(object(), Wanted(("prompt",)))


def test_a_run_with_other_demonstrations_of_the_same_file_is_another(tmp_path):
    path = facts_file(tmp_path / "facts.jsonl", 4)
    found = [wanted("ike", read_records(path, limit), path).settings() for limit in (1, 2, 2)]
    assert found[0]["demonstrations_sha256"] == found[1]["demonstrations_sha256"]
    assert found[0] != found[1] == found[2]
    apart = facts_file(tmp_path / "apart.jsonl", 2)
    renamed = apart.read_text().replace("N", "Q").replace("Zoe", "Zia")
    apart.write_text(renamed.replace('"id": "', '"id": "q'))
    same = [
        wanted("ike", read_records(apart, limit), apart, demonstrations=path).settings()
        for limit in (1, 2)
    ]
    assert same[0] == same[1]


def test_a_baseline_takes_no_more_facts_than_its_limit():
    data = DataFile("made.json", "plain", "0" * 64, RECORDS)
    chosen = wanted("rag,ft:5", data, None)
    assert (chosen.most("rag", 9), chosen.most("ft", 9), chosen.most("ft", 4)) == (9, 5, 4)
    assert chosen.settings() == {"baseline_limits": {"ft": 5}}
    assert chosen.portions(9, None) == [(slice(0, 5), ["rag", "ft"]), (slice(5, 9), ["rag"])]
    # Whole batches: of 5 facts, 4 in pairs; the last batch may be a smaller one.
    assert chosen.portions(9, 2) == [(slice(0, 4), ["rag", "ft"]), (slice(4, 9), ["rag"])]
    assert chosen.portions(9, 8) == [(slice(0, 9), ["rag"])]
    assert chosen.portions(5, 2) == [(slice(0, 5), ["rag", "ft"])]
    [note] = chosen.limits_note("these")
    assert "ft 5; these." in note
    assert wanted("rag", data, None).limits_note("these") == []


def test_many_edits_have_a_row_for_every_baseline(tmp_path, monkeypatch):
    """Of the shipped decoder; ft takes one fact only."""
    monkeypatch.setattr(fine_tuning, "STEPS", 12)
    data, more = facts_file(tmp_path / "facts.jsonl", 2), facts_file(tmp_path / "more.jsonl", 4)
    baselines = ("--baselines", "prompt,rag,ike,ft:1", "--demonstrations", more)
    arguments = ("--data", data, *baselines, "--max-tokens", 2)
    report = invoked(
        "batch", *arguments, "--sizes", "1,2", "--addressing", "slots", "--out", tmp_path / "b"
    )
    rows = {(one["system"], one["facts"]): one["metrics"] for one in report["rows"]}
    systems = ("larimar", "base", "prompt", "rag", "ike")
    assert set(rows) == {(name, size) for name in systems for size in (1, 2)} | {("ft", 1)}
    assert rows["ft", 1]["edit_S"]["value"] == rows["larimar", 2]["edit_S"]["value"] == 100.0
    assert rows["ft", 1]["edit_M"]["value"] > rows["base", 1]["edit_M"]["value"]
    text = (tmp_path / "b" / "report.md").read_text(encoding="utf-8")
    assert "ft 1; these at once" in text and "| ft, 1 |" in text and "| rag, 2 |" in text
    report = invoked("sequential", *arguments, "--out", tmp_path / "s")
    edits = {one["system"]: one.get("edits") for one in report["rows"]}
    assert edits == {"larimar": None, "base": None, "prompt": 2, "rag": 2, "ike": 2, "ft": 1}


def test_the_command_has_a_row_for_every_baseline(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(fine_tuning, "STEPS", 12)
    data = tmp_path / "records.jsonl"
    lines = [
        {
            "case_id": int(record.case_id),
            "requested_rewrite": {
                "prompt": "The capital of {} is",
                "subject": record.subject,
                "target_new": {"str": record.target_new},
                "target_true": {"str": record.target_true},
            },
            "paraphrase_prompts": list(record.paraphrases),
            "neighborhood_prompts": list(record.neighbors),
            "generation_prompts": [],
        }
        for record in RECORDS
    ]
    data.write_text("\n".join(map(json.dumps, lines)))
    done = CliRunner().invoke(
        app,
        ["counterfact", "--data", str(data), "--limit", "1", "--max-tokens", "2", "--json",
         "--out", str(tmp_path / "out"), "--baselines", "prompt,rag,ike,ft:1",
         "--hf-model", str(exported), "--editor", f"{__name__}:Biased"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    body = json.loads(done.stdout)
    rows = {row["system"]: row["metrics"] for row in body["rows"]}
    assert list(rows) == ["larimar", "base", "prompt", "rag", "ike", "ft", "editor"]
    assert rows["ft"]["edit_S"]["value"] == rows["editor"]["edit_S"]["value"] == 100.0
    assert rows["ft"]["edit_M"]["value"] > rows["base"]["edit_M"]["value"]
    assert body["editor"] == f"{__name__}:Biased" and len(body["hf_model"]) == 64
