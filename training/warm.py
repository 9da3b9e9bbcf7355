"""Warm start: one pretrained masked language model becomes encoder and causal decoder."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from transformers import AutoTokenizer, BertLMHeadModel, BertModel

from larimar.checkpoint import Networks, share_embeddings
from larimar.errors import NotFound


def source_folder(name: str) -> Path:
    """The folder of a warm start: a path, or a Python package that carries a `model` folder.

    Raises:
        NotFound: neither exists.
    """
    if Path(name).is_dir():
        return Path(name)
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or spec.origin is None:
        raise NotFound(f"no warm start {name!r}: give a local folder or an installed package")
    return Path(spec.origin).parent / "model"


def warm_tokenizer(name: str):
    """The warm start's tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(source_folder(name))
    tokenizer.model_max_length = 10**9  # limits are ours to check, with an error of our own
    return tokenizer


def warm_networks(networks: Networks, name: str) -> None:
    """Copies the warm start's weights into both networks, in place."""
    folder = source_folder(name)
    encoder = BertModel.from_pretrained(folder, add_pooling_layer=False)
    networks.encoder.backbone.load_state_dict(encoder.state_dict())
    decoder = BertLMHeadModel.from_pretrained(folder, config=networks.decoder.lm.config)
    networks.decoder.lm.load_state_dict(decoder.state_dict())
    share_embeddings(networks)


def teacher(name: str) -> torch.nn.Module:
    """The warm start as it was: what prompt latents must stay parallel to."""
    model = BertModel.from_pretrained(source_folder(name), add_pooling_layer=False)
    return model.eval().requires_grad_(False)
