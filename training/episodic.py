"""Episodic training, equation 1: its batches, its losses."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

from larimar.decoder import Decoder
from larimar.encoder import Encoder, TokenizedTexts
from larimar.errors import InvalidArgument
from training.batches import Batch, RowTokenizer
from training.data import Sentences
from training.objective import LossTerms, Objective, TrainingMemory
from training.parts import Parts
from training.pretraining import teacher_latents
from training.recipes import Episodic
from training.rows import RowMaker
from training.schedule import beta
from training.tokens import TokenBlocks

HELD_BLOCKS = 8
"""Blocks of held-out running text a batch, for a recipe that trains on none."""
LENGTH_WINDOW = 8000
"""Sentences of similar length that one batch is drawn from: less padding."""


class EpisodicStage:
    """Draws the batches of an episodic run and computes their losses."""

    def __init__(
        self,
        recipe: Episodic,
        parts: Parts,
        data: tuple[Sentences, TokenBlocks],
        validation: tuple[Sentences, TokenBlocks],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        if recipe.rows_read < recipe.episode or recipe.rows_read % recipe.episode:
            raise InvalidArgument(
                f"rows_read {recipe.rows_read} must be a multiple of episode {recipe.episode}"
            )
        self.recipe, self.parts = recipe, parts
        self.sentences, self.blocks = data
        self.device = device
        networks = parts.networks
        if recipe.freeze_encoder:
            networks.encoder.backbone.requires_grad_(False)
        if recipe.freeze_decoder:
            networks.decoder.lm.requires_grad_(False)
        memory = TrainingMemory(recipe.slots, networks.encoder.prompt_size)
        self.module = Objective(networks, memory, parts.markers, recipe.episode, dtype).to(device)
        self.tokenizer = RowTokenizer(parts.encoder_tokenizer, parts.decoder_tokenizer)
        self.rows = RowMaker(self.sentences, recipe.rephrase, recipe.varied)
        self.by_length = np.argsort(self.sentences.lengths(), kind="stable")
        self.held_rows = RowMaker(validation[0], recipe.rephrase, recipe.varied)
        self.held_blocks = validation[1]

    def batch(self, step: int) -> Batch:
        """The batch of a step; all that is random in it follows from seed and step."""
        rng = np.random.default_rng((self.recipe.seed, step))
        window = min(LENGTH_WINDOW, len(self.by_length))
        low = int(rng.integers(0, len(self.by_length) - window + 1))
        count = self.recipe.rows_read + self.recipe.rows_direct
        indices = self.by_length[low + rng.integers(0, window, count)]
        return self._batch(rng, self.rows, indices, self.blocks)

    def part(self, batch: Batch, index: int, parts: int) -> Batch:
        """One of equal parts of a batch. Raises: InvalidArgument, as `Batch.part`."""
        return batch.part(index, parts, self.recipe.episode)

    def losses(self, module: nn.Module, batch: Batch, step: int) -> LossTerms:
        """Shares of the step's loss, of one part of its batch."""
        recipe = self.recipe
        wanted_BD = None
        if self.parts.teacher is not None:
            texts = TokenizedTexts(batch.prompts, self.parts.markers[0].pad_id)
            wanted_BD = teacher_latents(self.parts.teacher, texts.to(self.device))
        return module(
            batch,
            wanted_BD,
            self.schedule(step)["beta"],
            recipe.teacher_weight,
            (recipe.seed, step),
        )

    def schedule(self, step: int) -> dict[str, float]:
        """The weight of the KL term."""
        recipe = self.recipe
        return {"beta": beta(step, recipe.steps, recipe.beta_stop, recipe.beta_cycles)}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Loss terms on held-out text, the same rows every time."""
        recipe = self.recipe
        rng = np.random.default_rng((recipe.seed, 7))
        count = recipe.rows_read + recipe.rows_direct
        batches = max(1, recipe.validation_rows // count)
        sums: dict[str, float] = {}
        for number in range(batches):
            indices = rng.integers(0, len(self.held_rows.data), count)
            batch = self._batch(rng, self.held_rows, indices, self.held_blocks, HELD_BLOCKS)
            for name, value in self.losses(self.module, batch, number).items():
                sums[name] = sums.get(name, 0.0) + value.item() / batches
        del sums["total"]  # its KL term has the weight of a step, and this is of none
        return sums

    def servers(self) -> tuple[Encoder, Decoder]:
        """Encoder and decoder as they serve, on the networks as they are now."""
        model, parts = self.parts.networks.config, self.parts
        return (
            Encoder(parts.networks.encoder, parts.encoder_tokenizer, model.max_text_tokens),
            Decoder(
                parts.networks.decoder,
                parts.decoder_tokenizer,
                model.max_prompt_tokens,
                model.max_new_tokens,
            ),
        )

    def _batch(
        self,
        rng: np.random.Generator,
        maker: RowMaker,
        indices: Iterable[int],
        source: TokenBlocks,
        least_blocks: int = 0,
    ) -> Batch:
        recipe = self.recipe
        rows = [
            maker.answer(rng, int(index))
            if rng.random() < recipe.answer_share
            else maker.copy(rng, int(index))
            for index in indices
        ]
        blocks = source.draw(rng, recipe.plain_blocks or least_blocks, recipe.plain_length)
        cut = recipe.rows_read
        return self.tokenizer.batch(rows[:cut], rows[cut:], blocks)
