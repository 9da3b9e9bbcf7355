"""The plain decoder in a form that can be trained or edited, and what it says to queries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from evaluation.scoring import Job, score_together
from evaluation.systems import Query, Seen
from larimar.backbones import decoder_geometry
from larimar.checkpoint import ModelFolder
from larimar.config import ConnectorLayout
from larimar.connector import Connector
from larimar.decoder import Decoder, DecoderNetwork, Sampling


def trainable_decoder(folder: ModelFolder) -> Decoder:
    """A model folder's decoder in float32, its weights not packed: they may be changed."""
    config = folder.config
    return Decoder(
        folder.networks().decoder,
        folder.decoder_tokenizer(),
        config.max_prompt_tokens,
        config.max_new_tokens,
    )


def decoder_of(lm: Any, tokenizer: Any, like: Decoder) -> Decoder:
    """Any causal language model of Hugging Face as a decoder that is only asked plainly.

    Args:
        like: whose limits of tokens it takes; its connector has no part in this.
    """
    layers, kv_heads, head_dim = decoder_geometry(lm.config)
    layout = ConnectorLayout(
        slots=1,
        value_size=1,
        layers=layers,
        kv_heads=kv_heads,
        head_dim=head_dim,
        hidden_size=lm.config.hidden_size,
    )
    network = DecoderNetwork(lm, Connector(layout).to(lm.device, lm.dtype))
    return Decoder(network, tokenizer, like.max_prompt_tokens, like.max_new_tokens)


@torch.inference_mode()
def seen_by(decoder: Decoder, queries: Sequence[Query]) -> list[Seen]:
    """What a decoder says to queries, without a latent; in scope, as the edit is everywhere.

    Raises:
        InvalidArgument: an empty or too long prompt or candidate.
    """
    scores = score_together(
        decoder, [Job(query.prompt, query.candidates, None) for query in queries]
    )
    told = [place for place, query in enumerate(queries) if query.max_tokens]
    pieces = decoder.texts(
        [queries[place].prompt for place in told],
        [Sampling(queries[place].max_tokens) for place in told],
    )
    texts = {place: piece.text.lstrip() for place, piece in zip(told, pieces, strict=True)}
    return [Seen(found, texts.get(place), True) for place, found in enumerate(scores)]
