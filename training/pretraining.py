"""The decoder before it has a memory: a causal language model trained on running text.

What episodic training starts from. The encoder takes part only through the token embeddings
that both share: its prompt latents are kept parallel to the warm start's, so that the table
may move without the encoder being lost.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from larimar.checkpoint import Networks
from larimar.encoder import TokenizedTexts
from larimar.errors import InvalidArgument
from training.batches import Stored
from training.objective import LossTerms, running_text_loss
from training.parts import Parts
from training.recipes import Pretraining
from training.tokens import TokenBlocks
from training.workers import whole

_VALIDATION_BLOCKS, _VALIDATION_ROWS = 32, 8


@dataclasses.dataclass(frozen=True)
class TextBatch:
    """Running text of a step, or of a part of one.

    Attributes:
        blocks: int64 (rows, length + 1).
        kept: stretches of text on which the encoder is kept as it was.
        share: share of the step that this is.
    """

    blocks: np.ndarray
    kept: Sequence[Stored]
    share: float = 1.0

    @property
    def tokens(self) -> int:
        """Tokens that are learned."""
        return self.blocks[:, 1:].size

    def part(self, index: int, parts: int) -> TextBatch:
        """One of equal parts.

        Raises:
            InvalidArgument: the rows cannot be parted so.
        """
        if len(self.blocks) % parts or len(self.kept) % parts:
            raise InvalidArgument(
                f"{len(self.blocks)} blocks and {len(self.kept)} teacher rows do not fall into "
                f"{parts} equal parts: change --workers or --accumulate"
            )
        rows, kept = len(self.blocks) // parts, len(self.kept) // parts
        return TextBatch(
            self.blocks[index * rows : (index + 1) * rows],
            self.kept[index * kept : (index + 1) * kept],
            self.share / parts,
        )


class LanguageObjective(nn.Module):
    """Cross-entropy of running text, and how far the encoder has turned from its teacher."""

    def __init__(self, networks: Networks, pad_id: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.encoder = networks.encoder
        self.decoder = networks.decoder
        self.pad_id = pad_id
        self.dtype = dtype

    def forward(
        self, batch: TextBatch, wanted_BD: torch.Tensor | None, teacher_weight: float
    ) -> LossTerms:
        """Nats a token, and 1 - cosine to `wanted_BD` where it is given."""
        plain = running_text_loss(self.decoder, batch.blocks, self.dtype) * batch.share
        kept = plain.new_zeros(())
        if wanted_BD is not None:
            texts = TokenizedTexts(batch.kept, self.pad_id).to(plain.device)
            found_BD = self.encoder.prompt_latent(self.encoder.states(texts), texts).float()
            kept = (1 - F.cosine_similarity(found_BD, wanted_BD, dim=1).mean()) * batch.share
        total = plain + teacher_weight * kept
        return {"total": total, "plain": plain.detach(), "teacher": kept.detach()}


class PretrainingStage:
    """Draws the batches of a pretraining run and computes their losses."""

    def __init__(
        self,
        recipe: Pretraining,
        parts: Parts,
        data: TokenBlocks,
        validation: TokenBlocks,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.recipe, self.parts = recipe, parts
        self.data, self.validation = data, validation
        self.device = device
        networks = parts.networks
        self.keeps_encoder = parts.teacher is not None and networks.config.shared_embeddings
        networks.encoder.requires_grad_(False)
        networks.encoder.backbone.requires_grad_(self.keeps_encoder)
        networks.decoder.requires_grad_(True)
        networks.decoder.connector.requires_grad_(False)
        self.module = LanguageObjective(networks, parts.markers[0].pad_id, dtype).to(device)

    def batch(self, step: int) -> TextBatch:
        """The batch of a step; all that is random in it follows from seed and step."""
        recipe = self.recipe
        rng = np.random.default_rng((recipe.seed, step))
        length = int(rng.choice(recipe.lengths))
        blocks = self.data.draw(rng, recipe.tokens // length, length)
        return TextBatch(blocks, self._teacher_rows(rng) if self.keeps_encoder else [])

    def part(self, batch: TextBatch, index: int, parts: int) -> TextBatch:
        """One of equal parts of a batch. Raises: InvalidArgument, as `TextBatch.part`."""
        return batch.part(index, parts)

    def losses(self, module: nn.Module, batch: TextBatch, step: int) -> LossTerms:
        """Shares of the step's loss, of one part of its batch."""
        wanted_BD = None
        if self.parts.teacher is not None and batch.kept:
            texts = TokenizedTexts(batch.kept, self.parts.markers[0].pad_id)
            wanted_BD = teacher_latents(self.parts.teacher, texts.to(self.device))
        return module(batch, wanted_BD, self.recipe.teacher_weight)

    def schedule(self, step: int) -> dict[str, float]:
        """Nothing changes but the learning rate."""
        return {}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Nats a token on the first blocks of held-out text."""
        blocks = self.validation.first(_VALIDATION_BLOCKS, max(self.recipe.lengths))
        decoder, dtype = self.parts.networks.decoder, self.module.dtype
        with whole(self.module):
            losses = [
                running_text_loss(decoder, blocks[low : low + _VALIDATION_ROWS], dtype).item()
                for low in range(0, len(blocks), _VALIDATION_ROWS)
            ]
        return {"plain": float(np.mean(losses))}

    def _teacher_rows(self, rng: np.random.Generator) -> list[Stored]:
        length = int(rng.integers(8, 40))
        block = self.data.draw(rng, self.recipe.teacher_rows, length)
        stop = self.parts.markers[0].stop_id
        return [([*row[:-1].tolist(), stop], length) for row in block]


def teacher_latents(teacher: nn.Module, texts: TokenizedTexts) -> torch.Tensor:
    """Sentence embeddings of the warm start as it was, (B, D): means of its states."""
    with torch.no_grad():
        states_BTD = teacher(
            input_ids=texts.ids_BT, attention_mask=texts.mask_BT.long()
        ).last_hidden_state
        mask_BT1 = texts.mask_BT[..., None]
        return ((states_BTD * mask_BT1).sum(1) / mask_BT1.sum(1)).float()
