"""W_M: what turns a latent into something a stock decoder attends to.

Shapes: B rows, C value size, S slots of a latent, L decoder layers, H key/value
heads, d head width, E decoder width.
Source: Das et al., arXiv 2403.11901, section 3; the cache route leaves the
decoder's own code untouched, so any causal LM with a key/value cache will do.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import DynamicCache

from larimar.config import ConnectorLayout


class Connector(nn.Module):
    """Maps a latent to one key/value slot per part in every decoder layer."""

    def __init__(self, layout: ConnectorLayout) -> None:
        super().__init__()
        if layout.value_size % layout.slots:
            raise ValueError(
                f"value_size {layout.value_size} is not a multiple of slots {layout.slots}"
            )
        self.layout = layout
        width = layout.layers * layout.kv_heads * layout.head_dim
        width *= 1 if layout.shared_key_value else 2
        self.to_slot = nn.Linear(layout.value_size // layout.slots, width, bias=False)
        nn.init.normal_(self.to_slot.weight, std=0.02)
        self.slot_bias = (
            nn.Parameter(torch.randn(layout.slots, width) * 0.02) if layout.slot_bias else None
        )
        self.to_embedding = (
            nn.Linear(layout.value_size, layout.hidden_size, bias=False)
            if layout.embedding_add
            else None
        )

    def keys_values(self, z_BC: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Key and value of the latents' slots in each decoder layer, (B, H, S, d) each.

        They enter the cache as they are: a rotary decoder does not rotate the key of a slot.
        """
        layout = self.layout
        rows = z_BC.shape[0]
        slots_BSX = self.to_slot(z_BC.view(rows, layout.slots, -1))
        if self.slot_bias is not None:
            slots_BSX = slots_BSX + self.slot_bias.to(slots_BSX.dtype)
        parts = 1 if layout.shared_key_value else 2
        slots = slots_BSX.view(
            rows, layout.slots, layout.layers, parts, layout.kv_heads, layout.head_dim
        )
        return [
            (slots[:, :, layer, 0].transpose(1, 2), slots[:, :, layer, parts - 1].transpose(1, 2))
            for layer in range(layout.layers)
        ]

    def cache(self, z_BC: torch.Tensor) -> DynamicCache:
        """A fresh key/value cache that holds the latents of B rows, S positions long."""
        cache = DynamicCache()
        for layer, (key_BHSd, value_BHSd) in enumerate(self.keys_values(z_BC)):
            cache.update(key_BHSd, value_BHSd, layer)
        return cache

    def embedding(self, z_BC: torch.Tensor) -> torch.Tensor | None:
        """What is added to every token embedding of a row, (B, 1, E); None when nothing is."""
        return None if self.to_embedding is None else self.to_embedding(z_BC)[:, None]
