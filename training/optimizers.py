"""Optimizers of a recipe, and the learning rates of its groups of parameters."""

from __future__ import annotations

import torch
from torch import nn

from larimar.checkpoint import Networks
from larimar.errors import InvalidArgument
from training.parts import decoder_layers
from training.recipes import Recipe
from training.schedule import learning_rate

OPTIMIZERS = ("adamw", "muon")
_BETAS = (0.9, 0.98)


def build_optimizers(
    module: nn.Module, networks: Networks, recipe: Recipe
) -> list[torch.optim.Optimizer]:
    """Optimizers of everything in `module` that is trained.

    Raises:
        InvalidArgument: the recipe names another optimizer.
    """
    table = networks.decoder.lm.get_input_embeddings().weight
    encoder = _trained(networks.encoder.backbone, {id(table)})
    taken = {id(table)} | {id(p) for p in encoder}
    matrices = [p for p in _trained(decoder_layers(networks), taken) if p.ndim == 2]
    taken |= {id(p) for p in matrices}
    groups = [
        {"params": encoder, "rate": recipe.encoder_rate, "weight_decay": 0.0},
        {
            "params": [table] if table.requires_grad else [],
            "rate": recipe.embedding_rate,
            "weight_decay": 0.0,
        },
        {"params": _trained(module, taken), "rate": 1.0, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    layers = {
        "params": matrices,
        "rate": recipe.matrix_rate,
        "weight_decay": recipe.weight_decay,
    }
    rate = recipe.learning_rate
    if recipe.optimizer == "adamw" or not matrices:
        groups += [layers] if matrices else []
        return [torch.optim.AdamW(groups, lr=rate, betas=_BETAS, fused=True)]
    if recipe.optimizer != "muon":
        raise InvalidArgument(f"optimizer {recipe.optimizer!r} is none of {OPTIMIZERS}")
    return [
        torch.optim.AdamW(groups, lr=rate, betas=_BETAS, fused=True),
        torch.optim.Muon([layers], lr=rate, adjust_lr_fn="match_rms_adamw"),
    ]


def set_rates(optimizers: list[torch.optim.Optimizer], recipe: Recipe, step: int) -> float:
    """Sets the learning rates of a step; returns the recipe's rate at it."""
    factor = learning_rate(step, recipe.steps, recipe.warmup_steps, recipe.decay_share)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * group["rate"] * factor
    return recipe.learning_rate * factor


def _trained(module: nn.Module, taken: set[int]) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.requires_grad and id(p) not in taken]
