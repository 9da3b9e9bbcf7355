"""What a run trains: networks with their first weights, tokenizers, and the teacher."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from larimar.backbones import backbone_recipe_parts
from larimar.checkpoint import ModelFolder, Networks, build_networks, save, share_embeddings
from larimar.config import ModelConfig
from larimar.errors import InvalidArgument
from training.batches import Markers
from training.recipes import Recipe
from training.warm import teacher, warm_networks, warm_tokenizer


@dataclasses.dataclass
class Parts:
    """Networks, tokenizers and the teacher of a run."""

    networks: Networks
    encoder_tokenizer: Any
    decoder_tokenizer: Any
    teacher: torch.nn.Module | None

    @property
    def markers(self) -> tuple[Markers, Markers]:
        """Special tokens of the encoder's and of the decoder's texts."""
        return Markers.of(self.encoder_tokenizer), Markers.of(self.decoder_tokenizer)

    def save(self, folder: Path, networks: Networks, dtype: torch.dtype) -> None:
        """Writes the model folder of these networks, or of a whole copy of sharded ones."""
        save(
            networks,
            self.encoder_tokenizer,
            folder,
            dtype,
            decoder_tokenizer=self.decoder_tokenizer,
        )


def build_parts(
    recipe: Recipe, start: Path | None, device: torch.device, own_tokenizer: Any = None
) -> Parts:
    """The parts of a run, seeded by the recipe.

    Args:
        start: model folder of an earlier stage; without it the recipe's first weights.
        own_tokenizer: of a decoder that starts from random weights.

    Raises:
        NotFound: there is no such model folder, warm start or pretrained model.
        InvalidArgument: their weights do not fit the recipe's model.
    """
    torch.manual_seed(recipe.seed)
    if recipe.model is None:
        parts = _pretrained_parts(recipe, device)
    else:
        parts = _warm_parts(recipe, recipe.model, start is None, device, own_tokenizer)
    if start is not None:
        folder = ModelFolder.open(start)
        copy_weights(folder.networks(), parts.networks)
        parts.encoder_tokenizer = folder.encoder_tokenizer()
        parts.decoder_tokenizer = folder.decoder_tokenizer()
    return parts


def _pretrained_parts(recipe: Recipe, device: torch.device) -> Parts:
    if not recipe.encoder or not recipe.decoder:
        raise InvalidArgument("give --encoder and --decoder: names or folders of models")
    attention = attention_code(device)
    found = backbone_recipe_parts(recipe.encoder, recipe.decoder, attention=attention)
    return Parts(found.networks, found.encoder_tokenizer, found.decoder_tokenizer, None)


def _warm_parts(
    recipe: Recipe, model: ModelConfig, warm: bool, device: torch.device, own_tokenizer: Any
) -> Parts:
    networks = build_networks(model, attention=attention_code(device))
    tokenizer = warm_tokenizer(recipe.warm_start)
    if warm and recipe.fresh_decoder:
        start = teacher(recipe.warm_start)
        networks.encoder.backbone.load_state_dict(start.state_dict())
    elif warm:
        warm_networks(networks, recipe.warm_start)
    kept = teacher(recipe.warm_start).to(device) if recipe.teacher_weight else None
    return Parts(networks, tokenizer, own_tokenizer or tokenizer, kept)


def copy_weights(source: Networks, target: Networks) -> None:
    """Copies backbones, and connector and part maps where both have the same layout.

    A connector that is to add to the token embeddings, from one that did not, begins with nothing
    added: what the source could do stays.

    Raises:
        InvalidArgument: the backbones have other sizes.
    """
    try:
        target.encoder.backbone.load_state_dict(source.encoder.backbone.state_dict())
        target.decoder.lm.load_state_dict(source.decoder.lm.state_dict())
    except RuntimeError as error:
        raise InvalidArgument(f"--start has a model of other sizes: {error}") from error
    if source.config.latent == target.config.latent:
        target.encoder.load_state_dict(source.encoder.state_dict())
        _copy_connector(source, target)
    share_embeddings(target)


def _copy_connector(source: Networks, target: Networks) -> None:
    ours, theirs = target.config.connector, source.config.connector
    adds = ours.embedding_add and not theirs.embedding_add
    if ours != (dataclasses.replace(theirs, embedding_add=True) if adds else theirs):
        return
    connector = target.decoder.connector
    connector.load_state_dict(source.decoder.connector.state_dict(), strict=not adds)
    if adds and connector.to_embedding is not None:
        torch.nn.init.zeros_(connector.to_embedding.weight)


def whole_networks(config: ModelConfig, state: dict[str, torch.Tensor]) -> Networks:
    """Networks on the CPU with the weights of an objective's gathered state."""
    networks = build_networks(config)
    for name, network in (("encoder.", networks.encoder), ("decoder.", networks.decoder)):
        part = {key.removeprefix(name): v for key, v in state.items() if key.startswith(name)}
        network.load_state_dict(part)
    return networks


def attention_code(device: torch.device) -> str:
    """The attention code of `transformers`: on a CPU "sdpa" took 38 % of a step backwards."""
    return "eager" if device.type == "cpu" else "sdpa"


def decoder_layers(networks: Networks) -> torch.nn.ModuleList:
    """The layers of the decoder."""
    return _layers(networks.decoder.lm.base_model)


def encoder_layers(networks: Networks) -> torch.nn.ModuleList:
    """The layers of the encoder."""
    return _layers(networks.encoder.backbone)


def _layers(backbone: torch.nn.Module) -> torch.nn.ModuleList:
    lists = [module for module in backbone.modules() if isinstance(module, torch.nn.ModuleList)]
    return max(lists, key=len)
