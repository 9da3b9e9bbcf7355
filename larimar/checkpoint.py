"""A model folder: configuration, tokenizer and weights, checked against their digests.

config.json            ModelConfig, and the SHA-256 of every file beside it
tokenizer.json ...     shared by encoder and decoder
embeddings.safetensors token embeddings, shared
encoder.safetensors    encoder layers and part maps
decoder.safetensors    decoder layers, head and connector
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer
from transformers.initialization import no_init_weights

from larimar.config import ModelConfig
from larimar.connector import Connector
from larimar.decoder import Decoder, DecoderNetwork
from larimar.encoder import Encoder, EncoderNetwork
from larimar.errors import InvalidArgument, NotFound

EMBEDDINGS = "embeddings.safetensors"
ENCODER = "encoder.safetensors"
DECODER = "decoder.safetensors"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
_EMBEDDING_KEY = "word_embeddings"


@dataclasses.dataclass
class Networks:
    """The trainable parts of a model, as torch modules."""

    config: ModelConfig
    encoder: EncoderNetwork
    decoder: DecoderNetwork

    def modules(self) -> torch.nn.ModuleDict:
        """Both networks under one roof, for optimizers and checkpoints of a training run."""
        return torch.nn.ModuleDict({"encoder": self.encoder, "decoder": self.decoder})


def build_encoder(config: ModelConfig, attention: str = "sdpa") -> EncoderNetwork:
    """The encoder network of a configuration, with fresh weights."""
    fields = dict(config.encoder_backbone)
    kind = fields.pop("model_type")
    backbone = AutoModel.from_config(
        AutoConfig.for_model(kind, **fields),
        attn_implementation=attention,
        **({"add_pooling_layer": False} if kind == "bert" else {}),
    )
    return EncoderNetwork(backbone, config.latent)


def build_decoder(config: ModelConfig, attention: str = "sdpa") -> DecoderNetwork:
    """The decoder network of a configuration, with fresh weights."""
    fields = dict(config.decoder_backbone)
    kind = fields.pop("model_type")
    lm = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(kind, **fields), attn_implementation=attention
    )
    return DecoderNetwork(lm, Connector(config.connector))


def build_networks(config: ModelConfig, attention: str = "sdpa") -> Networks:
    """Networks of a configuration with fresh weights.

    Args:
        attention: the attention code of `transformers`; "eager" trains faster on a CPU,
            where the backward pass of "sdpa" took 38 % of a step.
    """
    networks = Networks(config, build_encoder(config, attention), build_decoder(config, attention))
    share_embeddings(networks)
    return networks


def share_embeddings(networks: Networks) -> None:
    """Makes encoder and decoder use one table of token embeddings, where the config says so."""
    if networks.config.shared_embeddings:
        lm = networks.decoder.lm
        networks.encoder.backbone.set_input_embeddings(lm.get_input_embeddings())
        lm.tie_weights()


def save(networks: Networks, tokenizer, folder: Path, dtype=torch.bfloat16) -> None:
    """Writes a model folder; weights are stored in `dtype`."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    embeddings, encoder, decoder = {}, {}, {}
    table = networks.decoder.lm.get_input_embeddings().weight
    shared = networks.config.shared_embeddings
    if shared:
        embeddings[_EMBEDDING_KEY] = table
    for target, network in ((encoder, networks.encoder), (decoder, networks.decoder)):
        seen = {table.data_ptr()} if shared else set()
        for key, tensor in network.state_dict().items():
            if tensor.data_ptr() not in seen:
                seen.add(tensor.data_ptr())
                target[key] = tensor
    for name, tensors in ((EMBEDDINGS, embeddings), (ENCODER, encoder), (DECODER, decoder)):
        if tensors:
            stored = {
                key: tensor.detach().to(dtype if tensor.is_floating_point() else tensor.dtype)
                for key, tensor in tensors.items()
            }
            save_file({k: v.contiguous().clone() for k, v in stored.items()}, folder / name)
    files = sorted(p.name for p in folder.iterdir() if p.suffix == ".safetensors")
    files += [name for name in _TOKENIZER_FILES if (folder / name).exists()]
    document = {
        "format": "larimar-model/1",
        "model": json.loads(networks.config.to_json()),
        "sha256": {name: _sha256(folder / name) for name in files},
    }
    (folder / "config.json").write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


@dataclasses.dataclass(frozen=True)
class ModelFolder:
    """A checked model folder, from which each service loads only its own part."""

    path: Path
    config: ModelConfig
    sha256: dict[str, str]

    @classmethod
    def open(cls, path: str | Path) -> ModelFolder:
        """Reads the configuration; weights are checked when they are loaded.

        Raises:
            NotFound: there is no model folder at `path`.
            InvalidArgument: it is not a model folder of this version.
        """
        folder = Path(path)
        try:
            document = json.loads((folder / "config.json").read_text())
        except FileNotFoundError as error:
            raise NotFound(
                f"no model folder at {folder}: give --model a folder with a config.json, "
                "or train one with `larimar train`",
                "MODEL_NOT_FOUND",
            ) from error
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise InvalidArgument(
                f"{folder}/config.json is not JSON: {error}", "BAD_MODEL"
            ) from error
        if not isinstance(document, dict) or document.get("format") != "larimar-model/1":
            raise InvalidArgument(
                f"{folder}/config.json is not a larimar-model/1 configuration", "BAD_MODEL"
            )
        try:
            config = ModelConfig.from_json(json.dumps(document["model"]))
        except ValueError as error:
            raise InvalidArgument(f"{folder}/config.json: {error}", "BAD_MODEL") from error
        return cls(folder, config, document["sha256"])

    @property
    def encoder_digest(self) -> str:
        """Digest that events carry: what made their latents."""
        parts = [self.sha256.get(name, "") for name in (EMBEDDINGS, ENCODER, "tokenizer.json")]
        layout = json.dumps(dataclasses.asdict(self.config.latent), sort_keys=True)
        return hashlib.sha256("\n".join([*parts, layout]).encode()).hexdigest()

    @property
    def model_digest(self) -> str:
        """Digest of the whole folder: configuration and every file."""
        files = json.dumps(self.sha256, sort_keys=True)
        return hashlib.sha256((self.config.to_json() + files).encode()).hexdigest()

    def tokenizer(self):
        """The tokenizer that encoder and decoder share."""
        return AutoTokenizer.from_pretrained(self.path)

    def networks(self) -> Networks:
        """Both networks with their weights, in float32."""
        networks = build_networks(self.config)
        self._load(networks.decoder, DECODER)
        self._load(networks.encoder, ENCODER)
        share_embeddings(networks)
        return networks

    def encoder(self, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Encoder:
        """The encoder, ready to serve."""
        with no_init_weights():
            network = build_encoder(self.config)
        self._load(network, ENCODER)
        return Encoder(network.to(device, dtype), self.tokenizer(), self.config.max_text_tokens)

    def decoder(self, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Decoder:
        """The decoder with its connector, ready to serve."""
        with no_init_weights():
            network = build_decoder(self.config)
        network.lm.tie_weights()
        self._load(network, DECODER)
        return Decoder(
            network.to(device, dtype),
            self.tokenizer(),
            self.config.max_prompt_tokens,
            self.config.max_new_tokens,
        )

    def _load(self, network: torch.nn.Module, name: str) -> None:
        tensors = self._tensors(name)
        missing, unexpected = network.load_state_dict(
            {key: value.float() for key, value in tensors.items()}, strict=False
        )
        if unexpected:
            raise InvalidArgument(f"{name} holds unknown weights: {unexpected[:3]}", "BAD_MODEL")
        table = None
        if self.config.shared_embeddings:
            table = self._tensors(EMBEDDINGS)[_EMBEDDING_KEY].float()
            inner: Any = network.lm if isinstance(network, DecoderNetwork) else network.backbone
            inner.get_input_embeddings().weight.data.copy_(table)
        state = network.state_dict()
        lost = [
            key
            for key in missing
            if not (table is not None and state[key].shape == table.shape)
            and not key.endswith("predictions.decoder.bias")
        ]
        if lost:
            raise InvalidArgument(f"{name} lacks weights: {lost[:3]}", "BAD_MODEL")

    def _tensors(self, name: str) -> dict[str, torch.Tensor]:
        path = self.path / name
        if not path.exists():
            raise NotFound(f"{path} is missing: the model folder is incomplete", "MODEL_NOT_FOUND")
        if _sha256(path) != self.sha256.get(name):
            raise InvalidArgument(
                f"{path} does not match the SHA-256 in config.json: restore the file", "BAD_MODEL"
            )
        return load_file(path)


def serving_dtype(device: str = "cpu") -> torch.dtype:
    """bfloat16 on a GPU and where the processor multiplies it in hardware, else float32."""
    if device != "cpu":
        return torch.bfloat16
    fast = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
    return torch.bfloat16 if fast else torch.float32


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
