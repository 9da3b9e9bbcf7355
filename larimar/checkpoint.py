"""A model folder: configuration, tokenizers and weights, checked against their digests.

config.json            ModelConfig, and the SHA-256 of every file beside it
tokenizer.json ...     of encoder and decoder, where they share one; else each has its own in
                       encoder_tokenizer/ and decoder_tokenizer/
embeddings.safetensors token embeddings, where encoder and decoder share them
encoder.safetensors    encoder layers and part maps
decoder.safetensors    decoder layers, head and connector

Weights past the bound of a file are in encoder-00001.safetensors and so on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import os
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
)
from transformers.initialization import no_init_weights

from larimar.config import ModelConfig
from larimar.connector import Connector
from larimar.decoder import Decoder, DecoderNetwork
from larimar.encoder import Encoder, EncoderNetwork, encoder_network
from larimar.errors import InvalidArgument, NotFound
from larimar.manifest import FORMAT, Manifest, file_sha256
from larimar.weights import SHARD_BYTES, read_shards, shard_names, write_shards

_EMBEDDINGS, _ENCODER, _DECODER = "embeddings", "encoder", "decoder"
_EMBEDDING_KEY = "word_embeddings"
_OWN_TOKENIZERS = {_ENCODER: "encoder_tokenizer", _DECODER: "decoder_tokenizer"}


@dataclasses.dataclass
class Networks:
    """The trainable parts of a model, as torch modules."""

    config: ModelConfig
    encoder: EncoderNetwork
    decoder: DecoderNetwork

    def modules(self) -> torch.nn.ModuleDict:
        """Both networks under one roof, for optimizers and checkpoints of a training run."""
        return torch.nn.ModuleDict({"encoder": self.encoder, "decoder": self.decoder})


def build_encoder(
    config: ModelConfig, attention: str = "sdpa", dtype: torch.dtype = torch.float32
) -> EncoderNetwork:
    """The encoder network of a configuration, with fresh weights; its backbone is in `dtype`."""
    backbone = AutoModel.from_config(
        settings := backbone_config(config.encoder_backbone),
        attn_implementation=attention_code(attention),
        dtype=dtype,
        **without_pooler(settings),
    )
    return encoder_network(backbone, config.latent)


def build_decoder(
    config: ModelConfig, attention: str = "sdpa", dtype: torch.dtype = torch.float32
) -> DecoderNetwork:
    """The decoder network of a configuration, with fresh weights; the language model in `dtype`."""
    lm = AutoModelForCausalLM.from_config(
        backbone_config(config.decoder_backbone),
        attn_implementation=attention_code(attention),
        dtype=dtype,
    )
    return DecoderNetwork(lm, Connector(config.connector))


def build_networks(config: ModelConfig, attention: str = "sdpa") -> Networks:
    """Networks of a configuration with fresh weights.

    Args:
        attention: the attention code of `transformers`; "sdpa" where the model has it. "eager"
            trains faster on a CPU, where the backward pass of "sdpa" took 38 % of a step.
    """
    networks = Networks(config, build_encoder(config, attention), build_decoder(config, attention))
    share_embeddings(networks)
    return networks


def attention_code(wanted: str) -> str | None:
    """What `transformers` is asked for: None takes "sdpa" only from models that have it."""
    return None if wanted == "sdpa" else wanted


def backbone_config(fields: dict[str, Any]) -> Any:
    """The Hugging Face configuration that `ModelConfig` holds as plain fields."""
    fields = dict(fields)
    return AutoConfig.for_model(fields.pop("model_type"), **fields)


def without_pooler(config: Any) -> dict[str, bool]:
    """Arguments that make a backbone without the pooler that some kinds have."""
    parameters = inspect.signature(MODEL_MAPPING[type(config)].__init__).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in parameters else {}


def share_embeddings(networks: Networks) -> None:
    """Makes encoder and decoder use one table of token embeddings, where the config says so."""
    if networks.config.shared_embeddings:
        lm = networks.decoder.lm
        networks.encoder.backbone.set_input_embeddings(lm.get_input_embeddings())
        lm.tie_weights()


def save(
    networks: Networks,
    tokenizer,
    folder: Path,
    dtype: torch.dtype = torch.bfloat16,
    *,
    decoder_tokenizer=None,
    max_shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes a model folder.

    Args:
        tokenizer: the encoder's, and the decoder's too unless it is given.
        dtype: what weights are stored in; int8 stores matrices with a scale for each row.
        max_shard_bytes: past which weights are split over several files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = _save_tokenizers(tokenizer, decoder_tokenizer or tokenizer, folder)
    table = networks.decoder.lm.get_input_embeddings().weight
    shared = networks.config.shared_embeddings
    parts = {_EMBEDDINGS: {_EMBEDDING_KEY: table} if shared else {}}
    for stem, network in ((_ENCODER, networks.encoder), (_DECODER, networks.decoder)):
        seen = {table.data_ptr()} if shared else set()
        parts[stem] = {}
        for key, tensor in network.state_dict().items():
            if tensor.data_ptr() not in seen:
                seen.add(tensor.data_ptr())
                parts[stem][key] = tensor
    for stem, tensors in parts.items():
        write_shards(tensors, folder, stem, dtype, max_shard_bytes)
        files += shard_names(stem, os.listdir(folder))
    _write_config(
        folder,
        {
            "format": FORMAT,
            "model": json.loads(networks.config.to_json()),
            "sha256": {name: file_sha256(folder / name) for name in sorted(files)},
        },
    )


def add_file(folder: Path, name: str) -> None:
    """Puts a file that lies in a model folder under its digests: `ModelFolder.file` gives it."""
    ModelFolder.open(folder)
    document = json.loads((folder / "config.json").read_text())
    document["sha256"][name] = file_sha256(folder / name)
    _write_config(folder, document)


class ModelFolder(Manifest):
    """A checked model folder, from which each service loads only its own part."""

    @property
    def encoder_digest(self) -> str:
        """Digest that events carry: what made their latents."""
        names = [*self._names(_EMBEDDINGS)] or [""]
        names += [*self._names(_ENCODER), self._tokenizer_folder(_ENCODER) + "tokenizer.json"]
        parts = [self.sha256.get(name, "") for name in names]
        layout = json.dumps(self.recorded["latent"], sort_keys=True)
        return hashlib.sha256("\n".join([*parts, layout]).encode()).hexdigest()

    def encoder_tokenizer(self) -> Any:
        """The encoder's tokenizer. Raises: NotFound, InvalidArgument, as `file`."""
        return self._tokenizer(_ENCODER)

    def decoder_tokenizer(self) -> Any:
        """The decoder's tokenizer. Raises: NotFound, InvalidArgument, as `file`."""
        return self._tokenizer(_DECODER)

    def networks(self) -> Networks:
        """Both networks with their weights, in float32, ready to train."""
        with no_init_weights():
            networks = Networks(self.config, build_encoder(self.config), build_decoder(self.config))
        self._load(networks.decoder, _DECODER, torch.float32)
        self._load(networks.encoder, _ENCODER, torch.float32)
        share_embeddings(networks)
        return networks

    def encoder(self, dtype: torch.dtype | None = None, device: str = "cpu") -> Encoder:
        """The encoder, ready to serve; in the configuration's type unless `dtype` is given."""
        dtype = dtype or serving_dtype(device, self.config.encoder_dtype)
        with no_init_weights():
            network = build_encoder(self.config, dtype=dtype)
        self._load(network, _ENCODER, dtype)
        return Encoder(network.to(device), self.encoder_tokenizer(), self.config.max_text_tokens)

    def decoder(self, dtype: torch.dtype | None = None, device: str = "cpu") -> Decoder:
        """The decoder with its connector, ready to serve; `dtype` as in `encoder`."""
        dtype = dtype or serving_dtype(device, self.config.decoder_dtype)
        with no_init_weights():
            network = build_decoder(self.config, dtype=dtype)
        self._load(network, _DECODER, dtype)
        return Decoder(
            network.to(device),
            self.decoder_tokenizer(),
            self.config.max_prompt_tokens,
            self.config.max_new_tokens,
            serving=True,
        )

    def file(self, name: str) -> Path:
        """Where a file of the folder is, once its digest is checked.

        Raises:
            NotFound: it is missing.
            InvalidArgument: it is not the file whose digest config.json has.
        """
        path = self.path / name
        if not path.exists():
            raise NotFound(f"{path} is missing: the model folder is incomplete", "MODEL_NOT_FOUND")
        if file_sha256(path) != self.sha256.get(name):
            raise InvalidArgument(
                f"{path} does not match the SHA-256 in config.json: restore the file", "BAD_MODEL"
            )
        return path

    def _names(self, stem: str) -> list[str]:
        return shard_names(stem, self.sha256)

    def _tokenizer_folder(self, part: str) -> str:
        own = _OWN_TOKENIZERS[part] + "/"
        return own if any(name.startswith(own) for name in self.sha256) else ""

    def _tokenizer(self, part: str) -> Any:
        folder = self._tokenizer_folder(part)
        for name in self.sha256:
            if name.startswith(folder + "tokenizer"):
                self.file(name)
        return AutoTokenizer.from_pretrained(self.path / folder)

    def _load(self, network: torch.nn.Module, stem: str, dtype: torch.dtype) -> None:
        """Puts the stored weights in place of the network's own, without a copy of either."""
        tensors = self._tensors(stem, dtype)
        missing, unexpected = network.load_state_dict(tensors, strict=False, assign=True)
        if unexpected:
            raise InvalidArgument(f"{stem} holds unknown weights: {unexpected[:3]}", "BAD_MODEL")
        inner: Any = network.lm if isinstance(network, DecoderNetwork) else network.backbone
        if self.config.shared_embeddings:
            table = self._tensors(_EMBEDDINGS, dtype)[_EMBEDDING_KEY]
            inner.get_input_embeddings().weight = torch.nn.Parameter(table)
        inner.tie_weights()
        own: dict[str, torch.Tensor] = dict(network.named_parameters(remove_duplicate=False))
        own |= dict(network.named_buffers(remove_duplicate=False))
        filled = {id(own[key]) for key in tensors}
        if self.config.shared_embeddings:
            filled.add(id(inner.get_input_embeddings().weight))
        lost = [key for key in missing if id(own[key]) not in filled]
        if lost:
            raise InvalidArgument(f"{stem} lacks weights: {lost[:3]}", "BAD_MODEL")

    def _tensors(self, stem: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        names = self._names(stem) or [f"{stem}.safetensors"]
        return read_shards([self.file(name) for name in names], dtype)


def serving_dtype(device: str = "cpu", wanted: str = "auto") -> torch.dtype:
    """bfloat16 on a GPU and where the processor multiplies it in hardware, else float32.

    A processor does so with matrix instructions (AMX) or with vector ones (AVX-512 BF16).

    Args:
        wanted: one of `larimar.config.DTYPES`; any but "auto" is what it says.
    """
    if wanted != "auto":
        return getattr(torch, wanted)
    if device != "cpu":
        return torch.bfloat16
    fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def same_tokenizer(one: Any, other: Any) -> bool:
    """Whether two tokenizers make the same tokens of any text."""
    if one is other:
        return True
    if one.special_tokens_map != other.special_tokens_map:
        return False
    if not (one.is_fast and other.is_fast):
        return False
    return one.backend_tokenizer.to_str() == other.backend_tokenizer.to_str()


def _save_tokenizers(encoder_tokenizer, decoder_tokenizer, folder: Path) -> list[str]:
    """Saves one tokenizer, or each in a folder of its own; gives the files' names."""
    homes = {"": encoder_tokenizer}
    if not same_tokenizer(encoder_tokenizer, decoder_tokenizer):
        homes = {
            _OWN_TOKENIZERS[_ENCODER] + "/": encoder_tokenizer,
            _OWN_TOKENIZERS[_DECODER] + "/": decoder_tokenizer,
        }
    names = []
    for home, tokenizer in homes.items():
        saved = {Path(path).name for path in tokenizer.save_pretrained(folder / home)}
        names += [home + name for name in sorted(saved) if (folder / home / name).is_file()]
    return names


def _write_config(folder: Path, document: dict[str, Any]) -> None:
    text = json.dumps(document, indent=1, sort_keys=True) + "\n"
    (folder / "config.json.tmp").write_text(text)
    os.replace(folder / "config.json.tmp", folder / "config.json")
