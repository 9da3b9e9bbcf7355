"""Training: rows, the four terms, the schedule, resuming, and the folder that comes out."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from larimar.checkpoint import ModelFolder
from larimar.decoder import Sampling
from larimar.encoder import Text
from larimar.errors import InvalidArgument, NotFound
from tests.golden import golden_arrays
from tests.training_runs import (
    LINES,
    loop,
    options,
    tiny_episodic,
    tiny_pretraining,
    tiny_scratch,
    write_corpus,
    write_warm_start,
)
from training.batches import RowTokenizer
from training.bpe import open_tokenizer, train_bpe
from training.crossentropy import weighted_cross_entropy
from training.data import Sentences, read_lines, sentences, training_shards, validation_file
from training.objective import TrainingMemory, running_text_loss
from training.recipes import (
    RECIPES,
    Episodic,
    Start,
    find_recipe,
    find_start,
    small_embedding_add,
    small_frozen_decoder,
    small_frozen_encoder,
    small_one_slot,
    small_one_slot_add,
    small_scratch,
    small_scratch_base,
    small_shared_kv,
    to_json,
)
from training.rows import Row, RowMaker
from training.run import Sources, build_loop
from training.schedule import beta, learning_rate
from training.tokens import MANIFEST, open_tokens, prepare_tokens, sources_sha256


@pytest.fixture(scope="module")
def warm_start(tmp_path_factory):
    return write_warm_start(tmp_path_factory.mktemp("warm"))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def tokenizer(warm_start):
    return AutoTokenizer.from_pretrained(warm_start)


@pytest.fixture(scope="module")
def data(corpus) -> Sentences:
    return Sentences.read(training_shards(corpus), 1000)


@pytest.fixture(scope="module")
def prepared(corpus, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    prepare_tokens(corpus, tokenizer, folder, 0)
    return folder


@pytest.fixture(scope="module")
def base_model(warm_start, corpus, prepared, tmp_path_factory):
    """The model folder of a pretraining run."""
    out = tmp_path_factory.mktemp("base")
    run = loop(tiny_pretraining(warm_start), corpus, out, prepared=prepared)
    run.recipe = dataclasses.replace(run.recipe, steps=1)
    run.run()
    return out / "model"


# Text and rows


def test_sentences_come_from_compressed_shards_without_titles(data) -> None:
    assert data.texts == LINES + LINES
    assert list(sentences(["A title", "Too short.", LINES[0] + "  " + LINES[1]])) == LINES[:2]


def test_lines_are_read_from_plain_files_too(tmp_path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    assert [line.strip() for line in read_lines([tmp_path / "a.txt"])] == ["one", "two"]


def test_a_folder_without_shards_says_what_is_missing(tmp_path) -> None:
    with pytest.raises(NotFound, match=r"train_\*"):
        training_shards(tmp_path)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), index=st.integers(0, len(LINES) - 1))
def test_rows_are_cut_from_one_sentence(data, seed, index) -> None:
    maker = RowMaker(data, rephrase=True)
    rng = np.random.default_rng(seed)
    row = maker.answer(rng, index)
    assert f"{row.prompt} {row.answer}" in LINES[index]
    assert row.target == row.answer and row.answer and row.prompt and row.query
    copied = maker.copy(rng, index)
    assert f"{copied.prompt} {copied.answer}".strip() == LINES[index] == copied.target
    assert len(copied.query.split()) == len(LINES[index].split())


def test_without_rephrasing_the_query_is_the_prompt(data) -> None:
    maker = RowMaker(data, rephrase=False)
    rng = np.random.default_rng(0)
    rows = [maker.answer(rng, index) for index in range(20)]
    assert all(row.query == row.prompt for row in rows)


def test_with_rephrasing_a_quarter_of_the_prompts_stay(data) -> None:
    maker = RowMaker(data, rephrase=True)
    rng = np.random.default_rng(0)
    rows = [maker.answer(rng, index % len(data)) for index in range(600)]
    same = np.mean([row.query == row.prompt for row in rows])
    assert 0.25 <= same < 0.45


DATED = [
    "The bridge at Kalisz was opened on 14 June 1931, and closed in 1997.",
    "Mira Tolen taught law in the old town of Olomouc for many quiet years.",
]


def test_varied_rows_have_numbers_dates_long_answers_and_questions() -> None:
    maker = RowMaker(Sentences(DATED, ["the", "of"]), rephrase=False, varied=True)
    rng = np.random.default_rng(0)
    rows = [maker.answer(rng, index % 2) for index in range(400)]
    answers = {row.answer for row in rows}
    assert {"14 June 1931", "1997", "Kalisz"} <= answers
    assert any(len(answer.split()) > 5 for answer in answers)
    questions = [row for row in rows if row.prompt.endswith("?")]
    assert 0.1 < len(questions) / len(rows) < 0.2
    assert all(row.query == row.prompt and row.target == row.answer for row in rows)
    plain = [row for row in rows if not row.prompt.endswith("?")]
    assert all(any(f"{row.prompt} {row.answer}" in text for text in DATED) for row in plain)


# Tokens and weights


def test_a_spoilt_word_is_given_and_the_true_one_learned(tokenizer) -> None:
    rows = RowTokenizer(tokenizer, tokenizer)
    stored = "Tarsin lies on the Emajogi river"
    spoilt = "Tarsin lies on botany Emajogi river"
    row = rows.batch([], [Row(stored, "", spoilt, stored, True)], np.zeros((0, 5))).decoded[0]
    true_ids = tokenizer(stored, add_special_tokens=False)["input_ids"]
    assert row.labels == [*true_ids, tokenizer.sep_token_id]
    changed = [k for k, (a, b) in enumerate(zip(row.ids[1:], true_ids)) if a != b]
    assert tokenizer.decode([true_ids[k] for k in changed]) == "the"
    assert len(row.ids) == len(row.labels)


def test_an_answer_row_learns_the_answer_alone(tokenizer) -> None:
    rows = RowTokenizer(tokenizer, tokenizer)
    row = Row("The capital of Velmora is", "Tarsin", "Velmora's capital", "Tarsin", False)
    batch = rows.batch([row], [row], np.zeros((0, 5)))
    answer = tokenizer("Tarsin", add_special_tokens=False)["input_ids"]
    assert batch.decoded[0].labels == [*answer, tokenizer.sep_token_id]
    ids, start = batch.stored[0]
    assert ids[start:-1] == answer and batch.prompts[0][0] != ids


def test_each_term_weighs_copies_and_answers_alike(data, tokenizer) -> None:
    maker, rng = RowMaker(data, True), np.random.default_rng(0)
    rows = [maker.copy(rng, 0), maker.answer(rng, 1), maker.answer(rng, 2)]
    batch = RowTokenizer(tokenizer, tokenizer).batch(rows, rows, np.zeros((0, 5)))
    weights = [row.weight * len(row.labels) for row in batch.decoded]
    assert weights[0] == pytest.approx(0.5) and weights[3] == pytest.approx(0.5)
    assert sum(weights) == pytest.approx(2.0)


def test_prepared_text_begins_each_document_and_block_alike(prepared, tokenizer) -> None:
    train, held = open_tokens(prepared, tokenizer)
    documents = np.flatnonzero(train.ids == tokenizer.cls_token_id)
    assert len(documents) == 2 and train.ids[-1] == tokenizer.sep_token_id
    assert len(train) == 2 * len(held)
    blocks = train.draw(np.random.default_rng(0), 5, 16)
    assert blocks.shape == (5, 17) and (blocks[:, 0] == tokenizer.cls_token_id).all()
    assert (held.first(3, 16)[1, 1:] == held.ids[17:33]).all()
    with pytest.raises(InvalidArgument, match="too few"):
        train.draw(np.random.default_rng(0), 1, len(train))


def test_text_prepared_with_another_vocabulary_is_refused(prepared, tokenizer, warm_start) -> None:
    other = AutoTokenizer.from_pretrained(warm_start)
    other.add_tokens(["velmora"])
    with pytest.raises(InvalidArgument, match="another vocabulary"):
        open_tokens(prepared, other)
    with pytest.raises(NotFound, match="larimar prepare"):
        open_tokens(prepared / "nowhere", tokenizer)


# The objective


def test_the_cross_entropy_and_its_gradients_are_torchs() -> None:
    torch.manual_seed(0)
    leaves = [torch.randn(70, 8), torch.randn(33, 8), torch.randn(33)]
    labels_N, weights_N = torch.randint(33, (70,)), torch.rand(70)
    ours = [leaf.clone().requires_grad_() for leaf in leaves]
    theirs = [leaf.clone().requires_grad_() for leaf in leaves]
    loss, losses_N = weighted_cross_entropy(*ours, labels_N, weights_N, torch.float32)
    wanted_N = F.cross_entropy(theirs[0] @ theirs[1].T + theirs[2], labels_N, reduction="none")
    wanted = (wanted_N * weights_N).sum()
    torch.testing.assert_close(losses_N, wanted_N, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(loss, wanted, atol=1e-5, rtol=1e-5)
    (3 * loss).backward()
    (3 * wanted).backward()
    for mine, torchs in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, torchs.grad, atol=1e-5, rtol=1e-5)


def test_kl_weight_follows_the_references_cycle() -> None:
    wanted = next(iter(golden_arrays("beta_schedule.npz").values()))
    ours = np.array([beta(step, 1000, 0.5, 10) for step in range(1000)])
    assert np.abs(ours - wanted).max() <= 0.5 / 25 + 1e-9


def test_learning_rate_rises_holds_and_falls() -> None:
    rates = [learning_rate(step, 100, 10, 0.5) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[20] == rates[45] == 1.0
    assert rates[99] == pytest.approx(0.02)


def test_memory_reads_an_episode_back_when_there_is_no_noise() -> None:
    torch.manual_seed(0)
    memory = TrainingMemory(16, 12)
    memory.logvar.data.fill_(-200.0)
    prompts_ND, z_NC = torch.randn(5, 12), torch.randn(5, 9)
    read_NC, kl_NK = memory.read(prompts_ND, z_NC, torch.Generator().manual_seed(0))
    assert torch.allclose(read_NC, z_NC, atol=1e-5)
    assert kl_NK.shape == (5, 16) and (kl_NK > 0).all()


def test_every_part_of_the_model_gets_a_gradient(warm_start, corpus, prepared, tmp_path) -> None:
    run = loop(tiny_episodic(warm_start), corpus, tmp_path, prepared=prepared)
    losses = run.stage.losses(run.module, run.stage.batch(5), 5)  # where the KL term has weight
    losses["total"].backward()
    parameters = dict(run.module.named_parameters())
    silent = [name for name, p in parameters.items() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_padding_is_not_counted_in_the_loss(warm_start, corpus, prepared, tmp_path) -> None:
    run = loop(tiny_episodic(warm_start), corpus, tmp_path, prepared=prepared)
    batch = run.stage.batch(0)
    direct = dataclasses.replace(batch, blocks=batch.blocks[:0])
    short = min(range(8, 12), key=lambda row: len(batch.decoded[row].ids))
    alone = dataclasses.replace(
        direct,
        stored=[*batch.stored[:8], batch.stored[short]],
        decoded=[*batch.decoded[:8], batch.decoded[short]],
    )
    with torch.no_grad():
        found = [run.stage.losses(run.module, each, 0)["read"] for each in (direct, alone)]
        decoder = run.stage.parts.networks.decoder
        whole = running_text_loss(decoder, batch.blocks, torch.float32)
        halves = [running_text_loss(decoder, batch.blocks[k::2], torch.float32) for k in (0, 1)]
    assert found[0].item() == pytest.approx(found[1].item(), rel=1e-5)
    assert whole.item() == pytest.approx(sum(halves).item() / 2, rel=1e-5)


# The loop


@pytest.mark.parametrize("stage", [tiny_episodic, tiny_pretraining])
def test_a_resumed_run_has_the_losses_of_an_unbroken_one(
    warm_start, corpus, prepared, tmp_path, stage
) -> None:
    recipe = stage(warm_start)
    whole = loop(recipe, corpus, tmp_path / "whole", prepared=prepared)
    wanted = [whole.train_step() for _ in range(4)]
    first = loop(recipe, corpus, tmp_path / "part", prepared=prepared)
    found = [first.train_step() for _ in range(2)]
    first.options.out.mkdir()
    first.save()
    second = loop(recipe, corpus, tmp_path / "part", prepared=prepared)
    assert second.step == 2 and second.tokens == first.tokens
    found += [second.train_step() for _ in range(2)]
    assert found == wanted


def test_a_state_of_another_recipe_is_refused_and_nothing_is_changed(
    warm_start, corpus, prepared, base_model, tmp_path
) -> None:
    recipe = tiny_episodic(warm_start)
    run = loop(recipe, corpus, tmp_path, prepared=prepared, start=base_model)
    run.train_step()
    run.save()
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    # All of them have weights of the same shapes.
    for name, value in {"learning_rate": 1e-5, "rows_read": 4, "steps": 7, "seed": 1}.items():
        other = dataclasses.replace(recipe, **{name: value})
        with pytest.raises(InvalidArgument, match=rf"another run \({name} differ\)"):
            loop(other, corpus, tmp_path, prepared=prepared, start=base_model)
    with pytest.raises(InvalidArgument, match=r"\(--start differ\)"):
        loop(recipe, corpus, tmp_path, prepared=prepared)
    assert {path: path.read_bytes() for path in kept} == kept
    assert loop(recipe, corpus, tmp_path, prepared=prepared, start=base_model).step == 1


def test_a_state_of_another_text_is_refused(warm_start, corpus, prepared, tmp_path) -> None:
    run = loop(tiny_episodic(warm_start), corpus, tmp_path / "run", prepared=prepared)
    run.options.out.mkdir()
    run.train_step()
    run.save()
    longer = tmp_path / "longer"
    shutil.copytree(corpus, longer)
    with validation_file(longer).open("a") as file:
        file.write("The end.\n")
    with pytest.raises(InvalidArgument, match=r"the text of --corpus or --prepared differ"):
        loop(tiny_episodic(warm_start), longer, tmp_path / "run", prepared=prepared)
    shorter = tmp_path / "shorter"
    shutil.copytree(prepared, shorter)
    manifest = json.loads((shorter / MANIFEST).read_text())
    (shorter / MANIFEST).write_text(json.dumps(manifest | {"limit": 7}))
    with pytest.raises(InvalidArgument, match=r"the text of --corpus or --prepared differ"):
        loop(tiny_episodic(warm_start), corpus, tmp_path / "run", prepared=shorter)


def test_text_that_another_corpus_left_is_made_anew_unless_steps_are_saved_on_it(
    warm_start, corpus, tmp_path
) -> None:
    other = write_corpus(tmp_path / "other")
    validation_file(other).write_text("Another text, and no other line.\n" * 20)
    recipe = dataclasses.replace(tiny_pretraining(warm_start), steps=1)
    run = tmp_path / "run"
    loop(recipe, corpus, run)
    text = json.loads((run / "text" / MANIFEST).read_text())
    loop(recipe, other, run)
    anew = json.loads((run / "text" / MANIFEST).read_text())
    assert anew["sources_sha256"] == sources_sha256(other) != text["sources_sha256"]
    (run / "text" / MANIFEST).unlink()
    loop(recipe, other, run).run()
    assert json.loads((run / "text" / MANIFEST).read_text()) == anew
    for changed, there in ((recipe, corpus), (dataclasses.replace(recipe, corpus_tokens=9), other)):
        with pytest.raises(InvalidArgument, match="another corpus"):
            loop(changed, there, run)
    assert json.loads((run / "text" / MANIFEST).read_text()) == anew


def test_a_recipe_that_trains_on_no_running_text_is_still_validated_on_some(
    warm_start, corpus, prepared, tmp_path
) -> None:
    recipe = dataclasses.replace(tiny_episodic(warm_start), plain_blocks=0)
    assert loop(recipe, corpus, tmp_path, prepared=prepared).stage.validate()["plain"] > 1


def test_a_run_killed_in_its_last_save_makes_its_model_when_it_goes_on(
    warm_start, corpus, prepared, tmp_path, monkeypatch
) -> None:
    recipe = dataclasses.replace(tiny_episodic(warm_start), steps=2)
    run = loop(recipe, corpus, tmp_path, prepared=prepared, save_every=1)
    saved = []

    def killed(path: Path, target: Path) -> Path:
        saved.append(path)
        if len(saved) == 2:
            raise KeyboardInterrupt
        return replace(path, target)

    replace = Path.replace
    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        run.run()
    monkeypatch.undo()
    again = loop(recipe, corpus, tmp_path, prepared=prepared, save_every=1)
    assert again.step == 1, "the state of the last step was not there yet"
    again.run()
    wanted = again.stage.parts.networks.decoder.state_dict()
    found = ModelFolder.open(tmp_path / "model").networks().decoder.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def test_a_state_that_does_not_say_of_which_recipe_it_is_is_taken_with_a_note(
    warm_start, corpus, prepared, tmp_path
) -> None:
    run = loop(tiny_episodic(warm_start), corpus, tmp_path, prepared=prepared)
    run.train_step()
    run.save()
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    del state["recipe"]
    torch.save(state, tmp_path / "state.pt")
    said = []
    sources = Sources(corpus, prepared)
    again = build_loop(tiny_episodic(warm_start), sources, options(tmp_path), said.append)
    assert again.step == 1 and any("does not say of which recipe" in line for line in said)


def test_a_look_that_was_broken_off_is_made_when_the_run_goes_on(
    warm_start, corpus, prepared, tmp_path
) -> None:
    recipe = dataclasses.replace(tiny_episodic(warm_start), steps=2)
    looks = []

    def look(stage):
        looks.append(stage)
        if len(looks) == 1:
            raise KeyboardInterrupt
        return {"edit_S": 0.5}, []

    for _ in range(3):
        run = loop(recipe, corpus, tmp_path, prepared=prepared)
        run.looks = (look,)
        with contextlib.suppress(KeyboardInterrupt):
            run.run()
        assert run.step == 2
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    seen = [one for one in records if "held_plain" in one]
    assert [(one["step"], one["edit_S"]) for one in seen] == [(2, 0.5)] and len(looks) == 2


@pytest.mark.parametrize("stage", [tiny_episodic, tiny_pretraining])
def test_accumulated_parts_have_the_loss_of_one_batch(
    warm_start, corpus, prepared, tmp_path, stage
) -> None:
    recipe = stage(warm_start)
    whole = loop(recipe, corpus, tmp_path, prepared=prepared)
    parts = loop(recipe, corpus, tmp_path, prepared=prepared, accumulate=2)
    for _ in range(3):
        wanted, found = whole.train_step(), parts.train_step()
        assert found == pytest.approx(wanted, rel=1e-5, abs=1e-6)


def test_rows_that_do_not_fall_into_parts_are_refused(
    warm_start, corpus, prepared, tmp_path
) -> None:
    run = loop(tiny_episodic(warm_start), corpus, tmp_path, prepared=prepared, accumulate=3)
    with pytest.raises(InvalidArgument, match="equal parts"):
        run.train_step()


def test_a_loss_that_is_not_finite_stops_the_run_unchanged(
    warm_start, corpus, prepared, tmp_path
) -> None:
    run = loop(tiny_episodic(warm_start), corpus, tmp_path, prepared=prepared)
    run.module.memory.logvar.data.fill_(float("nan"))
    before = [p.detach().clone() for p in run.trained]
    with pytest.raises(FloatingPointError, match="step 0"):
        run.train_step()
    assert all(
        torch.equal(
            a,
            b,
        )
        or a.isnan().any()
        for a, b in zip(before, run.trained)
    )
    assert run.step == 0


def test_training_learns_what_it_is_shown(warm_start, corpus, prepared, tmp_path) -> None:
    recipe = dataclasses.replace(tiny_episodic(warm_start), steps=40, learning_rate=3e-3)
    run = loop(recipe, corpus, tmp_path, prepared=prepared)
    losses = [run.train_step() for _ in range(40)]
    for name, share in (("plain", 0.7), ("read", 0.8)):
        first, last = (np.mean([step[name] for step in part]) for part in (losses[:8], losses[-8:]))
        assert last < share * first, name


def test_the_folder_of_a_run_loads_checks_and_refuses_damage(
    warm_start, corpus, prepared, tmp_path
) -> None:
    recipe = dataclasses.replace(tiny_episodic(warm_start), steps=2)
    run = loop(recipe, corpus, tmp_path, prepared=prepared, log_every=1, save_every=2)
    run.run()
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2, 2]
    assert {"total", "beta", "rate", "tokens_s"} <= records[0].keys()
    assert "held_plain" in records[2]
    assert {path.name for path in tmp_path.glob("*.png")} == {"losses.png", "rate.png", "beta.png"}
    folder = ModelFolder.open(tmp_path / "model")
    values = folder.encoder().values([Text("The capital of Velmora is", "Tarsin")])
    assert values.shape == (1, recipe.model.latent.value_size)
    trained = run.stage.parts.networks.decoder.lm.get_input_embeddings().weight
    loaded = folder.decoder(torch.float32).network.lm.get_input_embeddings().weight
    assert torch.equal(trained, loaded)
    weights = folder.path / "encoder.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(bytes(damaged))
    with pytest.raises(Exception, match="SHA-256"):
        folder.encoder()


# Stages and recipes


def test_a_connector_that_is_to_add_to_embeddings_goes_on_from_one_that_did_not(
    warm_start, corpus, prepared, base_model, tmp_path
) -> None:
    before = loop(tiny_episodic(warm_start), corpus, tmp_path / "before", prepared=prepared)
    (tmp_path / "before").mkdir()
    before.save()
    made = tiny_episodic(warm_start, small_embedding_add())
    start = tmp_path / "before" / "model"
    run = loop(made, corpus, tmp_path / "run", prepared=prepared, start=start)
    connector = run.stage.parts.networks.decoder.connector
    wanted = before.stage.parts.networks.decoder.connector
    assert torch.equal(connector.to_slot.weight, wanted.to_slot.weight)
    assert torch.equal(connector.slot_bias, wanted.slot_bias)
    assert not connector.to_embedding.weight.any()
    run.train_step()
    assert connector.to_embedding.weight.any()


def test_episodic_training_starts_from_a_pretrained_model(
    warm_start, corpus, prepared, base_model, tmp_path
) -> None:
    recipe = tiny_episodic(warm_start)
    run = loop(recipe, corpus, tmp_path, prepared=prepared, start=base_model)
    wanted = ModelFolder.open(base_model).networks().decoder.lm.state_dict()
    for name, tensor in run.stage.parts.networks.decoder.lm.state_dict().items():
        assert torch.equal(tensor, wanted[name]), name
    fresh = loop(recipe, corpus, tmp_path, prepared=prepared)
    key = "bert.encoder.layer.0.attention.self.query.weight"
    assert not torch.equal(fresh.stage.parts.networks.decoder.lm.state_dict()[key], wanted[key])


def test_pretraining_changes_the_decoder_and_not_the_connector(
    warm_start, corpus, prepared, tmp_path
) -> None:
    run = loop(tiny_pretraining(warm_start), corpus, tmp_path, prepared=prepared)
    networks = run.stage.parts.networks
    frozen = networks.decoder.connector.to_slot.weight.clone()
    lm = [p.clone() for p in networks.decoder.lm.base_model.encoder.parameters()]
    run.train_step()
    assert torch.equal(frozen, networks.decoder.connector.to_slot.weight)
    moved = networks.decoder.lm.base_model.encoder.parameters()
    assert all(not torch.equal(a, b) for a, b in zip(lm, moved))


@pytest.mark.parametrize(
    "recipe", [small_shared_kv, small_embedding_add, small_one_slot, small_one_slot_add]
)
def test_an_ablation_trains_and_saves_a_model(
    recipe, warm_start, corpus, prepared, base_model, tmp_path
) -> None:
    made = tiny_episodic(warm_start, recipe())
    run = loop(made, corpus, tmp_path, prepared=prepared, start=base_model)
    run.train_step()
    tmp_path.mkdir(exist_ok=True)
    run.save()
    assert ModelFolder.open(tmp_path / "model").config.connector == made.model.connector


@pytest.mark.parametrize(
    ("recipe", "still", "moving"),
    [(small_frozen_encoder, "encoder", "decoder"), (small_frozen_decoder, "decoder", "encoder")],
)
def test_a_frozen_half_stays_while_the_other_learns(
    recipe, still, moving, warm_start, corpus, prepared, tmp_path
) -> None:
    made = tiny_episodic(warm_start, recipe())
    run = loop(made, corpus, tmp_path, prepared=prepared)
    networks = run.stage.parts.networks
    halves = {"encoder": networks.encoder.backbone, "decoder": networks.decoder.lm}
    before = {
        name: [p.detach().clone() for p in half.parameters()] for name, half in halves.items()
    }
    connector = networks.decoder.connector.to_slot.weight.detach().clone()
    run.train_step()
    assert all(map(torch.equal, before[still], halves[still].parameters()))
    assert not all(map(torch.equal, before[moving], halves[moving].parameters()))
    assert not torch.equal(connector, networks.decoder.connector.to_slot.weight)


def test_a_decoder_from_nothing_goes_through_both_stages(warm_start, corpus, tmp_path) -> None:
    base = loop(tiny_scratch(small_scratch_base(), warm_start), corpus, tmp_path / "base")
    base.recipe = dataclasses.replace(base.recipe, steps=1)
    base.run()
    prepared = tmp_path / "base" / "text"
    recipe = tiny_scratch(small_scratch(), warm_start)
    second = loop(
        recipe, corpus, tmp_path / "run", prepared=prepared, start=tmp_path / "base" / "model"
    )
    second.train_step()
    second.options.out.mkdir()
    second.save()
    folder = ModelFolder.open(tmp_path / "run" / "model")
    assert len(folder.decoder_tokenizer()) <= 400 < len(folder.encoder_tokenizer())
    decoder = folder.decoder()
    pieces = decoder.generate(["The capital"], [Sampling(max_tokens=3)])
    assert [*pieces][-1][0].finish_reason


def test_a_scratch_vocabulary_reads_and_writes_any_text(corpus, tmp_path) -> None:
    tokenizer = train_bpe(training_shards(corpus), 500)
    text = "Tarsin – the capital of Velmora, 2026 \N{SNOWMAN}"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    prepare_tokens(corpus, tokenizer, tmp_path, 0)
    train, _ = open_tokens(tmp_path, open_tokenizer(tmp_path / "tokenizer"))
    assert train.ids[0] == train.ids[-1] == tokenizer.eos_token_id
    with pytest.raises(InvalidArgument, match="300"):
        train_bpe(training_shards(corpus), 100)


def test_a_run_can_be_repeated_from_the_recipe_it_keeps(warm_start, tmp_path) -> None:
    for made in (tiny_episodic(warm_start), tiny_pretraining(warm_start)):
        (tmp_path / "recipe.json").write_text(to_json(made))
        assert find_recipe(str(tmp_path / "recipe.json")) == made
        assert find_start(str(tmp_path / "recipe.json")) is None
        start = Start("model", "0" * 64)
        (tmp_path / "recipe.json").write_text(to_json(made, start))
        assert find_recipe(str(tmp_path / "recipe.json")) == made
        assert find_start(str(tmp_path / "recipe.json")) == start
    assert find_start("small") is None
    with pytest.raises(NotFound, match="small_base"):
        find_recipe("large")
    (tmp_path / "recipe.json").write_text("{}")
    with pytest.raises(InvalidArgument, match="not a recipe"):
        find_recipe(str(tmp_path / "recipe.json"))


def test_a_run_that_started_from_a_model_is_repeated_from_it_only(
    warm_start, corpus, prepared, base_model, tmp_path
) -> None:
    run = loop(tiny_episodic(warm_start), corpus, tmp_path, prepared=prepared, start=base_model)
    run.save()
    kept = tmp_path / "recipe.json"
    assert str(base_model.parent) not in kept.read_text()
    expected = find_start(str(kept))
    assert expected == Start("model", ModelFolder.open(base_model).model_digest)
    said, other = [], Start("model", "0" * 64)

    def repeat(start, expected):
        sources = Sources(corpus, prepared, start, expected)
        recipe = find_recipe(str(kept))
        return build_loop(recipe, sources, options(tmp_path / "other"), said.append)

    with pytest.raises(InvalidArgument, match=f"digest {expected.model_digest[:12]}.*--start"):
        repeat(None, expected)
    assert repeat(base_model, expected).start == expected
    assert not any("not a repetition" in line for line in said)
    repeat(base_model, other)
    assert any("not a repetition" in line for line in said)


def test_recipes_keep_the_size_of_a_latent() -> None:
    made = [recipe() for recipe in RECIPES.values()]
    models = [each.model for each in made if isinstance(each, Episodic) and each.model]
    assert {model.latent.value_size for model in models} == {1024} and len(models) == 14
    assert all(model.connector.slots == model.latent.slots for model in models)
