"""What decoding and editing are measured on: the shipped model, or random weights."""

from __future__ import annotations

import copy
import dataclasses
import time
from typing import Any

import torch
from torch import nn
from transformers.initialization import no_init_weights

from benchmarks.measure import Shape, prepare_process
from larimar.checkpoint import ModelFolder, build_decoder, build_encoder, serving_dtype
from larimar.cli.processes import checkout_root
from larimar.config import ConnectorLayout, LatentLayout, ModelConfig
from larimar.decoder import Decoder
from larimar.encoder import Encoder
from larimar.scope import SentenceEmbedder

NO_TOKEN = -1
"""A stop token that no decoder chooses: all rows run for the same number of steps."""
BANDWIDTH_BYTES = 1 << 28
"""Of the copy that a device's memory bandwidth is measured with: beyond any cache."""


_BERT_LARGE = {
    "model_type": "bert",
    "vocab_size": 30522,
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}
_ENCODERS = {
    Shape.tiny: _BERT_LARGE
    | {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    },
    Shape.gpt2_large: _BERT_LARGE,
    Shape.gpt_j: _BERT_LARGE,
}
_DECODERS = {
    Shape.tiny: {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2},
    Shape.gpt2_large: {"model_type": "gpt2", "n_embd": 1280, "n_layer": 36, "n_head": 20},
    Shape.gpt_j: {
        "model_type": "gptj",
        "vocab_size": 50400,
        "n_embd": 4096,
        "n_layer": 28,
        "n_head": 16,
        "rotary_dim": 64,
    },
}


@dataclasses.dataclass
class Parts:
    """A model's parts in this process.

    Attributes:
        stock: the same language model as `transformers` runs it.
    """

    shape: Shape
    config: ModelConfig
    encoder: Encoder
    decoder: Decoder
    embedder: SentenceEmbedder
    stock: Any

    def token_bytes(self) -> int:
        """Bytes of weights that a step reads: all but a table of which it takes single rows."""
        table = self.stock.get_input_embeddings().weight
        tied = self.stock.get_output_embeddings().weight is table
        every = {one.data_ptr(): one.numel() * one.itemsize for one in self.stock.parameters()}
        return sum(every.values()) - (0 if tied else table.numel() * table.itemsize)


def prepared(shape: Shape, device: str = "cpu", dtype: torch.dtype | None = None) -> Parts:
    """The parts of a shape on a device; the decoder never stops by itself."""
    prepare_process()
    dtype = dtype or serving_dtype(device)
    folder = ModelFolder.open(checkout_root() / "models" / "larimar-small")
    embedder = SentenceEmbedder(folder.config.scope.package, dtype, device)
    parts = _shipped if shape is Shape.small else _random
    found = parts(shape, folder, device, dtype, embedder)
    found.decoder.stop_id = NO_TOKEN
    return found


def bandwidth(device: str) -> float:
    """Bytes a second that a device reads, by a copy, which reads and writes each of them once."""
    source = torch.ones(BANDWIDTH_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(5):
        synchronize(device)
        started = time.perf_counter()
        target.copy_(source)
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    return 2 * BANDWIDTH_BYTES / min(seconds)


def synchronize(device: str) -> None:
    """Waits until a device has done what it was given."""
    if device != "cpu":
        torch.cuda.synchronize()


def _shipped(shape, folder, device, dtype, embedder) -> Parts:
    stock = folder.networks().decoder.lm.to(device, dtype).eval()
    return Parts(
        shape,
        folder.config,
        folder.encoder(dtype, device),
        folder.decoder(dtype, device),
        embedder,
        stock,
    )


def _random(shape, folder, device, dtype, embedder) -> Parts:
    """Random weights of a shape; texts are cut into the shipped model's tokens."""
    config = _config(shape)
    with torch.device(device), no_init_weights():
        encoder = build_encoder(config, dtype=dtype).to(dtype=dtype)
        decoder = build_decoder(config, dtype=dtype).to(dtype=dtype)
    decoder.lm.tie_weights()
    for network in (encoder, decoder):
        _fill(network)
    stock = copy.deepcopy(decoder.lm) if device == "cpu" else decoder.lm  # which is packed there
    tokenizer = folder.decoder_tokenizer()
    return Parts(
        shape,
        config,
        Encoder(encoder.eval(), tokenizer, config.max_text_tokens),
        Decoder(decoder, tokenizer, config.max_prompt_tokens, config.max_new_tokens, serving=True),
        embedder,
        stock.eval(),
    )


def _config(shape: Shape) -> ModelConfig:
    fields = _DECODERS[shape]
    latent = LatentLayout()
    layout = ConnectorLayout(
        slots=latent.slots,
        value_size=latent.value_size,
        layers=fields["n_layer"],
        kv_heads=fields["n_head"],
        head_dim=fields["n_embd"] // fields["n_head"],
        hidden_size=fields["n_embd"],
    )
    return ModelConfig(
        name=f"random-{shape}",
        encoder_backbone=_ENCODERS[shape],
        decoder_backbone=fields,
        latent=latent,
        connector=layout,
        shared_embeddings=False,
    )


@torch.no_grad()
def _fill(network: nn.Module) -> None:
    for parameter in network.parameters():
        parameter.normal_(std=0.02)
