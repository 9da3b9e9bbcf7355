"""What tests of the decoder and of its service share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch

from larimar.decoder import Decoder, Piece, Sampling
from larimar.lean import Pass

PROMPTS = [
    "The capital of Velmora is",
    "Danielle Darrieux, a native",
    "a",
    "The bridge over the Sarn was built by",
    "Zoë’s café in 東京 is",
]
WILD = Sampling(max_tokens=10, temperature=10.0, seed=3)
"""All but uniform over the vocabulary: long texts, whatever the weights."""


def whole(decoder: Decoder, prompt: str, sampling: Sampling, z_1C=None) -> tuple[str, str, int]:
    """Text, finish reason and number of tokens of a prompt decoded alone."""
    return joined([pieces[0] for pieces in decoder.generate([prompt], [sampling], z_1C)])


def endless(decoder: Decoder, prompt: str) -> tuple[Sampling, str]:
    """Wild sampling whose text the model does not end before its length, and that text."""
    for seed in range(100):
        sampling = dataclasses.replace(WILD, seed=seed)
        text, reason, tokens = whole(decoder, prompt, sampling)
        if reason == "length":
            assert tokens == sampling.max_tokens
            return sampling, text
    raise AssertionError("every text was ended by the model")


def joined(pieces: list[Piece]) -> tuple[str, str, int]:
    return "".join(piece.text for piece in pieces), pieces[-1].finish_reason, pieces[-1].tokens


def rounding_caches(step: Callable[[Pass], torch.Tensor]) -> Callable[[Pass], torch.Tensor]:
    """A network's step, on a machine where a pass of more than two rows leaves another cache."""

    def rounded(tokens: Pass) -> torch.Tensor:
        out = step(tokens)
        if len(tokens.ids_RQ) > 2:
            tokens.cache.layers[0].stored[0].mul_(1.001)
        return out

    return rounded
