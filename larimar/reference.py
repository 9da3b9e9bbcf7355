"""Published checkpoints of the paper's reference implementation, as model folders.

Such a checkpoint is a PyTorch Lightning file. Its model is one pooled latent of size C, one slot
in every decoder layer whose key is its value, and a map of the latent that is added to every
token embedding: all of it is a `ModelConfig` with a pooled latent.
Source: the reference implementation of Das et al., arXiv 2403.11901.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers.initialization import no_init_weights

from larimar.backbones import (
    decoder_config_of,
    decoder_tokenizer_of,
    encoder_config_of,
    encoder_tokenizer_of,
    model_config,
)
from larimar.checkpoint import Networks, add_file, build_decoder, build_encoder, save
from larimar.config import LatentLayout, ModelConfig
from larimar.errors import InvalidArgument, NotFound
from larimar.weights import SHARD_BYTES

MEMORY_FILE = "reference_memory.safetensors"
"""The checkpoint's memory M_0 and log-variances, kept beside the weights."""
ADDED_TOKENS = (("pad_token", "<PAD>"), ("bos_token", "<BOS>"), ("eos_token", "<EOS>"))
"""What the reference adds to its decoder's tokens, in its order."""
_PREFIX = "model."
_IGNORED = re.compile(r"(\.attn\.bias|\.masked_bias|\.position_ids|\.embed_positions)$")
_RENAMED = (
    ("encoder.linear.", "encoder.to_latent."),
    ("encoder.pooler.dense.", "encoder.pooler."),
    ("encoder.", "encoder.backbone."),
    ("decoder.transformer.linear.", "decoder.connector.to_slot."),
    ("decoder.transformer.linear_emb.", "decoder.connector.to_embedding."),
    ("decoder.", "decoder.lm."),
)


@dataclasses.dataclass(frozen=True)
class ReferenceCheckpoint:
    """The weights of a checkpoint, by the names that they have in `Networks`."""

    encoder: dict[str, torch.Tensor]
    decoder: dict[str, torch.Tensor]
    memory: dict[str, torch.Tensor]
    """memory_mean (K, C), memory_logvar, and w_logvar of any kind, by the reference's names."""

    @classmethod
    def open(cls, path: str | Path) -> ReferenceCheckpoint:
        """Reads a Lightning file, or a state dictionary, without running anything in it.

        Raises:
            NotFound: there is no file at `path`.
            InvalidArgument: it is no such checkpoint.
        """
        parts: dict[str, dict[str, torch.Tensor]] = {"encoder": {}, "decoder": {}, "memory": {}}
        for key, tensor in _state(Path(path)).items():
            if _IGNORED.search(key):
                continue
            part, _, name = _renamed(key.removeprefix(_PREFIX)).partition(".")
            if part not in parts:
                raise InvalidArgument(
                    f"{path} holds {key}, which is no weight of the reference model",
                    "BAD_REFERENCE",
                )
            parts[part][name] = tensor
        found = cls(**parts)
        for part, name in (
            ("encoder", "to_latent.weight"),
            ("decoder", "connector.to_slot.weight"),
            ("memory", "memory_mean"),
        ):
            if name not in parts[part]:
                raise InvalidArgument(
                    f"{path} lacks {part}'s {name}: it is no checkpoint of the reference model",
                    "BAD_REFERENCE",
                )
        return found

    @property
    def slots(self) -> int:
        """K, rows of the memory."""
        return self.memory["memory_mean"].shape[0]

    @property
    def value_size(self) -> int:
        """C, the size of a latent."""
        return self.memory["memory_mean"].shape[1]

    @property
    def logvar_kind(self) -> str:
        """What the log-variance of an address is made of, by the shape of its weights.

        One of `scalar`, `slot` (one for each of K), and a linear map of `latent` (z), `memory`
        (vec M) or `both`.
        """
        weight = self.memory.get("w_logvar.weight")
        if weight is None:
            return "scalar" if self.memory["w_logvar"].numel() == 1 else "slot"
        size, memory = self.value_size, self.slots * self.value_size
        kinds = {size: "latent", memory: "memory", size + memory: "both"}
        if weight.shape[-1] not in kinds:
            raise InvalidArgument(
                f"w_logvar takes {weight.shape[-1]} inputs, which is none of {sorted(kinds)}",
                "BAD_REFERENCE",
            )
        return kinds[weight.shape[-1]]

    def networks(self, encoder_config: Any, decoder_config: Any, name: str) -> Networks:
        """The checkpoint's networks.

        Args:
            encoder_config: Hugging Face configuration of the encoder it was trained on; what
                the shapes of the weights say replaces what stands there.
            decoder_config: the same of the decoder.

        Raises:
            InvalidArgument: the weights are not those of such models.
        """
        tokens = self.encoder["backbone.embeddings.word_embeddings.weight"].shape[0]
        encoder_config.vocab_size = tokens
        table = self.decoder["lm.transformer.wte.weight"]
        decoder_config.vocab_size = table.shape[0]
        decoder_config.bos_token_id = decoder_config.eos_token_id = None  # the tokenizer's now
        head = self.decoder.get("lm.lm_head.weight", table)
        decoder_config.tie_word_embeddings = torch.equal(head, table)
        config = model_config(
            encoder_config, decoder_config, LatentLayout.pooled(self.value_size), name
        )
        with no_init_weights():
            networks = Networks(config, build_encoder(config), build_decoder(config))
        _fill(networks.encoder, self.encoder, "encoder")
        _fill(networks.decoder, self.decoder, "decoder")
        networks.decoder.lm.tie_weights()
        return networks


@dataclasses.dataclass(frozen=True)
class Imported:
    """What an import found."""

    config: ModelConfig
    slots: int
    """K, rows of the checkpoint's own memory."""
    logvar_kind: str


def import_reference(
    checkpoint: str | Path,
    encoder: str,
    decoder: str,
    out: Path,
    dtype: torch.dtype = torch.bfloat16,
    max_shard_bytes: int = SHARD_BYTES,
) -> Imported:
    """Writes a model folder from a published checkpoint of the reference implementation.

    Args:
        encoder: name or folder of the encoder that it was trained on: for its configuration
            and tokenizer; its weights are not read.
        decoder: the same of the decoder.
        dtype: what weights are stored in.

    Raises:
        NotFound: the checkpoint, the encoder or the decoder is not there.
        InvalidArgument: they do not belong together, or it is no such checkpoint. Nothing is
            written.
    """
    found = ReferenceCheckpoint.open(checkpoint)
    encoder_tokenizer = encoder_tokenizer_of(encoder)
    decoder_tokenizer = reference_decoder_tokenizer(decoder)
    networks = found.networks(
        encoder_config_of(encoder), decoder_config_of(decoder), Path(checkpoint).stem
    )
    for tokenizer, table, source in (
        (encoder_tokenizer, networks.encoder.backbone.get_input_embeddings(), encoder),
        (decoder_tokenizer, networks.decoder.lm.get_input_embeddings(), decoder),
    ):
        if len(tokenizer) > table.num_embeddings:
            raise InvalidArgument(
                f"the tokenizer of {source} has {len(tokenizer)} tokens, the checkpoint "
                f"{table.num_embeddings}: give the model it was trained on",
                "BAD_REFERENCE",
            )
    save(
        networks,
        encoder_tokenizer,
        out,
        dtype,
        decoder_tokenizer=decoder_tokenizer,
        max_shard_bytes=max_shard_bytes,
    )
    save_file({key: value.contiguous() for key, value in found.memory.items()}, out / MEMORY_FILE)
    add_file(out, MEMORY_FILE)
    return Imported(networks.config, found.slots, found.logvar_kind)


def reference_decoder_tokenizer(source: str) -> Any:
    """The decoder's tokenizer with the three tokens that the reference adds to it."""
    tokenizer = decoder_tokenizer_of(source)
    for name, token in ADDED_TOKENS:
        tokenizer.add_special_tokens({name: token})
    return tokenizer


def _state(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise NotFound(f"no checkpoint at {path}: give a Lightning file", "MODEL_NOT_FOUND")
    try:
        document = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch has no error of its own for a file of something else
        raise InvalidArgument(
            f"{path} is not a checkpoint of tensors and plain values, and nothing else is "
            "loaded: save its state_dict alone, with torch.save, where it was made "
            f"({' '.join(str(error).split())[:200]})",
            "BAD_REFERENCE",
        ) from error
    state = document.get("state_dict", document) if isinstance(document, dict) else {}
    if not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise InvalidArgument(f"{path} has no state_dict of tensors", "BAD_REFERENCE")
    return state


def _renamed(key: str) -> str:
    for old, new in _RENAMED:
        if key.startswith(old):
            return new + key.removeprefix(old)
    return key


def _fill(network: torch.nn.Module, tensors: dict[str, torch.Tensor], part: str) -> None:
    try:
        missing, unexpected = network.load_state_dict(tensors, strict=False, assign=True)
    except RuntimeError as error:
        raise InvalidArgument(
            f"the checkpoint's {part} is not of the model that --{part} names: "
            f"{' '.join(str(error).split())[:300]}",
            "BAD_REFERENCE",
        ) from error
    lost = [key for key in missing if not (part == "decoder" and key == "lm.lm_head.weight")]
    if lost or unexpected:
        raise InvalidArgument(
            f"the checkpoint's {part} is not of the model that --{part} names: "
            f"missing {lost[:3]}, unknown {unexpected[:3]}",
            "BAD_REFERENCE",
        )
