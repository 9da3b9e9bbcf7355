"""Doubles of the networks for the simulation: they cost nothing and always say the same."""

from __future__ import annotations

import random
import struct
from typing import Any

import numpy as np

from larimar.v1 import decoder_pb2, encoder_pb2
from larimar.wire import vector_to_bytes

PROMPT_SIZE, VALUE_SIZE, SCOPE_SIZE = 12, 3, 12
NUMBER_SCALE = 256
"""An answer `n` has n / 256 in its value, far inside the fixed-point range."""


class EncoderDouble:
    """The Encode contract: one text always has one latent, and an answer's number is its value."""

    async def Encode(self, request: Any, grpc_context: Any) -> encoder_pb2.EncodeResponse:
        """Latents of texts."""
        return encoder_pb2.EncodeResponse(
            latents=[
                encoder_pb2.Latents(
                    prompt_latent=vector_to_bytes(_vector(f"latent {item.prompt}", PROMPT_SIZE)),
                    value=_value(item.answer) if item.with_value else b"",
                )
                for item in request.items
            ],
            encoder_digest="e" * 64,
        )

    async def DescribeEncoder(self, request: Any, grpc_context: Any) -> Any:
        """What model this is."""
        return encoder_pb2.DescribeEncoderResponse(
            encoder_digest="e" * 64,
            prompt_size=PROMPT_SIZE,
            value_size=VALUE_SIZE,
            prompt_bits=16,
            value_bits=16,
        )


class EmbedderDouble:
    """What the scope service asks of a sentence-embedding model."""

    digest = "s" * 64
    size = SCOPE_SIZE
    max_text_tokens = 100

    def tokenize(self, text: str) -> list[int]:
        """Takes any text."""
        return [len(text)]

    def embed(self, texts: list[str]) -> np.ndarray:
        """A vector for each text."""
        vectors = [_vector(f"scope {text}", SCOPE_SIZE) for text in texts]
        return np.stack(vectors) if vectors else np.zeros((0, SCOPE_SIZE), np.float32)


class DecoderDouble:
    """Says as a score the answer's number that the latent holds; -1 without a latent."""

    async def ScoreCandidates(self, request: Any, grpc_context: Any) -> Any:
        """The number, as the log probability of the first candidate's only token."""
        number = -1.0
        if request.latent:
            number = struct.unpack_from("<f", request.latent)[0] * NUMBER_SCALE
        return decoder_pb2.ScoreCandidatesResponse(
            scores=[decoder_pb2.CandidateScore(token_logprobs=[number])]
        )


def _vector(text: str, size: int) -> np.ndarray:
    rng = random.Random(text)
    return np.array([rng.uniform(-1, 1) for _ in range(size)], np.float32)


def _value(answer: str) -> bytes:
    number = float(answer.split()[-1]) / NUMBER_SCALE
    return vector_to_bytes(np.array([number] + [0.5] * (VALUE_SIZE - 1), np.float32))
