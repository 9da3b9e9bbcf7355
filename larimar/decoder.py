"""d: the causal language model, with or without a latent in its cache.

Shapes: B rows, T tokens, C value size, E decoder width, V vocabulary; of a step R rows,
Q tokens, K positions of its cache.
Without a latent this is the plain decoder: no slot, no added embedding, its own
positions. How rows share a step, each as if it were alone, is in larimar/decoding.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache

from larimar.cache import LEAST_POSITIONS, RowsCache, positions_for
from larimar.connector import Connector
from larimar.decoding import MAX_ROWS, Batch, Reads, Row, fill_slots, read
from larimar.drafts import DraftPasses
from larimar.errors import InvalidArgument
from larimar.lean import LeanSteps, Pass
from larimar.packing import pack
from larimar.sampling import Chooser, Piece, Sampling, Tail
from larimar.spacing import Spacing
from larimar.steady import steady_row_counts

__all__ = ["CandidateScore", "Decoder", "DecoderNetwork", "Piece", "Sampling"]


@dataclasses.dataclass(frozen=True)
class CandidateScore:
    """Teacher-forced log probabilities of one candidate's tokens."""

    token_logprobs: tuple[float, ...]
    token_is_argmax: tuple[bool, ...]


class DecoderNetwork(nn.Module):
    """A stock causal language model and its connector."""

    lm: Any

    def __init__(self, lm: nn.Module, connector: Connector) -> None:
        super().__init__()
        self.lm = lm
        self.connector = connector

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(self.connector.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the connector's weights, and of the latents that it takes."""
        return next(self.connector.parameters()).dtype

    @property
    def positions(self) -> int:
        """How many positions the language model knows; very many where it does not say."""
        config = self.lm.config
        known = getattr(config, "max_position_embeddings", None)
        return int(known or 1 << 30)

    def hidden(
        self,
        ids_BT: torch.Tensor,
        mask_BT: torch.Tensor,
        z_BC: torch.Tensor | None = None,
        cache: DynamicCache | None = None,
        positions_BT: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Last hidden states, (B, T, E), of tokens that follow what is in `cache`.

        Args:
            mask_BT: True on real tokens of the whole sequence so far (cached tokens
                included, latent slots not).
            z_BC: the rows' latents, or None for the plain decoder.
            cache: filled in place; made here from the latents when None.
            positions_BT: positions of the new tokens, counted from 0 over real tokens.
        """
        layout = self.connector.layout
        if z_BC is not None and cache is None:
            cache = self.connector.cache(z_BC)
        if positions_BT is None:
            positions_BT = (mask_BT.long().cumsum(1) - 1).clamp(min=0)[:, -ids_BT.shape[1] :]
        inputs: dict = {"input_ids": ids_BT}
        if z_BC is not None:
            positions_BT = positions_BT + layout.first_position
            slots = mask_BT.new_ones((mask_BT.shape[0], layout.slots))
            mask_BT = torch.cat([slots, mask_BT], dim=1)
            added = self.connector.embedding(z_BC)
            if added is not None:
                embeddings = self.lm.get_input_embeddings()(ids_BT)
                inputs = {"inputs_embeds": embeddings + added.to(embeddings.dtype)}
        return self.lm.base_model(
            **inputs,
            attention_mask=mask_BT.long(),
            position_ids=positions_BT,
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state

    def step(self, tokens: Pass) -> torch.Tensor:
        """Last hidden states, (R, Q, E), of tokens that are written into a cache on the way."""
        embeddings_RQE = self.lm.get_input_embeddings()(tokens.ids_RQ)
        inputs: dict = {"input_ids": tokens.ids_RQ}
        if tokens.added_R1E is not None:
            added_R1E = tokens.added_R1E.to(embeddings_RQE.dtype)
            inputs = {"inputs_embeds": embeddings_RQE + added_R1E}
        mask_RQK = torch.zeros(
            tokens.visible_RQK.shape, dtype=embeddings_RQE.dtype, device=embeddings_RQE.device
        ).masked_fill_(~tokens.visible_RQK, -torch.inf)
        tokens.cache.write_at(tokens.places_RQ)
        return self.lm.base_model(
            **inputs,
            attention_mask=mask_RQK[:, None],
            position_ids=tokens.positions_RQ,
            past_key_values=tokens.cache,
            use_cache=True,
        ).last_hidden_state

    def rows_cache(self, rows: int, positions: int) -> RowsCache:
        """An empty cache for R rows of K positions."""
        layout = self.connector.layout
        like = self.lm.get_input_embeddings().weight
        return RowsCache.empty(
            layout.layers, rows, positions, layout.kv_heads, layout.head_dim, like
        )

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Next-token logits of hidden states, (..., E) -> (..., V)."""
        head = getattr(self.lm, "cls", None) or self.lm.lm_head
        return head(hidden)

    def head_input(self, hidden: torch.Tensor) -> torch.Tensor:
        """What the head's table is multiplied by, (..., E): BERT's head has a layer before it."""
        head = getattr(self.lm, "cls", None)
        return hidden if head is None else head.predictions.transform(hidden)

    def head_table(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The head's weight (V, E) and bias (V,), zero where the head has none."""
        linear = self.lm.get_output_embeddings()
        bias_V = linear.bias
        return linear.weight, linear.weight.new_zeros(
            len(linear.weight)
        ) if bias_V is None else bias_V


class Decoder:
    """Generates and scores text with a decoder network.

    Args:
        serving: makes the language model fast, in place, so that it can only be run: packs its
            weights for the CPU's kernels, and records the steps that come often.

    Attributes:
        drafts: whether rows are read with guesses at what they say next. Their texts are the same.
    """

    def __init__(
        self,
        network: DecoderNetwork,
        tokenizer,
        max_prompt_tokens: int,
        max_new_tokens: int,
        serving: bool = False,
    ) -> None:
        self.network = network.eval()
        self.tokenizer = tokenizer
        self.max_prompt_tokens = max_prompt_tokens
        self.max_new_tokens = max_new_tokens
        self.value_size = network.connector.layout.value_size
        self.device = network.device
        first = tokenizer.cls_token_id
        self.start_id = first if first is not None else tokenizer.bos_token_id
        last = tokenizer.sep_token_id
        self.stop_id = last if last is not None else tokenizer.eos_token_id
        pad = tokenizer.pad_token_id
        self.pad_id = pad if pad is not None else self.stop_id
        self._spacing = Spacing(tokenizer)
        self._row_counts: tuple[int, ...] = ()
        self.drafts = True
        self._draft_passes: DraftPasses | None = None
        self._steps = LeanSteps(network, record=serving)
        self._reads = Reads(network)
        if serving:
            pack(network.lm)

    def tokenize(self, prompt: str) -> list[int]:
        """Ids of a prompt, its start token included.

        Raises:
            InvalidArgument: the prompt is empty or past `max_prompt_tokens`.
        """
        ids = self._ids(prompt)
        if not ids:
            raise InvalidArgument("the prompt is empty: give it a text", "EMPTY_TEXT")
        if len(ids) > self.max_prompt_tokens:
            raise InvalidArgument(
                f"the prompt has {len(ids)} tokens, the limit is {self.max_prompt_tokens}: "
                "shorten it",
                "TEXT_TOO_LONG",
            )
        return [self.start_id, *ids] if self.start_id is not None else ids

    def batch(self) -> Batch:
        """An empty batch of up to MAX_ROWS rows, which `row` makes."""
        if self._draft_passes is None:
            self._row_counts = steady_row_counts(self.network)
            self._draft_passes = DraftPasses(self.network, self._row_counts)
        drafts = self._draft_passes if self.drafts else None
        return Batch(self._steps, self._row_counts, self._reads, drafts)

    def look(self) -> None:
        """Looks at the machine's kernels now, for texts of the usual length, rather than when the
        first of them comes."""
        self.batch()
        if self._draft_passes is not None:
            self._draft_passes.steady(LEAST_POSITIONS)

    def row(self, prompt: str, sampling: Sampling, z_C: torch.Tensor | None = None) -> Row:
        """A row for a batch.

        Args:
            z_C: the latent that it is decoded with; None decodes it plainly.

        Raises:
            InvalidArgument: as `tokenize`, or a setting of `sampling` is out of range.
        """
        ids = self.tokenize(prompt)
        sampling.check(self.max_new_tokens)
        z_1C = None if z_C is None else z_C[None].to(self.network.device, self.network.dtype)
        tail = Tail(self.tokenizer, self._spacing, self.stop_id, sampling, ids)
        return Row(ids, z_1C, Chooser(sampling), tail)

    def generate(
        self,
        prompts: Sequence[str],
        samplings: Sequence[Sampling],
        latents: Sequence[torch.Tensor | None] | torch.Tensor | None = None,
    ) -> Iterator[list[Piece]]:
        """Continues up to MAX_ROWS prompts together, a piece a row at every step.

        A row's last piece has a finish reason; pieces after that are empty. Leading
        blanks belong to the text. A row's text does not depend on the others.

        Args:
            latents: a latent (C,) or None for each prompt; None for all decodes all plainly.

        Raises:
            InvalidArgument: as `row`, or too many prompts.
        """
        if not 1 <= len(prompts) <= MAX_ROWS:
            raise InvalidArgument(f"one batch takes 1 to {MAX_ROWS} prompts", "BAD_BATCH")
        rows = self._rows(prompts, samplings, latents)
        return self._generate(rows)

    def _generate(self, rows: list[Row]) -> Iterator[list[Piece]]:
        batch = self.batch()
        for row in rows:
            batch.add(row)
        while batch.rows:
            batch.step()
            yield [row.take() for row in rows]

    def texts(
        self,
        prompts: Sequence[str],
        samplings: Sequence[Sampling],
        latents: Sequence[torch.Tensor | None] | torch.Tensor | None = None,
    ) -> list[Piece]:
        """The whole continuation of any number of prompts, each as one piece.

        A row that ends makes room for the next one at once.

        Raises:
            InvalidArgument: as `row`.
        """
        rows = self._rows(prompts, samplings, latents)
        batch, waiting = self.batch(), rows[::-1]
        while waiting or batch.rows:
            while waiting and batch.free:
                batch.add(waiting.pop())
            batch.step()
        return [row.take() for row in rows]

    @torch.inference_mode()
    def score(
        self,
        prompt: str,
        candidates: Sequence[str],
        z_C: torch.Tensor | None = None,
    ) -> list[CandidateScore]:
        """Log probabilities of candidate continuations of one prompt, teacher-forced.

        The prompt is read once; each candidate is a pass of its own over the prompt's cache.

        Raises:
            InvalidArgument: no candidates, an empty one, or a text past its limit.
        """
        if not candidates:
            raise InvalidArgument("give at least one candidate to score", "EMPTY_TEXT")
        tails = [self._candidate_ids(candidate) for candidate in candidates]
        row = self.row(prompt, Sampling(1), z_C)
        slots = 0 if z_C is None else self.network.connector.layout.slots
        head = slots + len(row.prompt_ids)
        caches: dict[int, tuple[RowsCache, int]] = {}
        scores = []
        for ids in tails:
            positions = positions_for(head + len(ids))
            if positions not in caches:
                caches[positions] = self._prompt_cache(row, positions)
            cache, row.used = caches[positions]
            scores.append(self._score(row, ids, cache))
        return scores

    def _prompt_cache(self, row: Row, positions: int) -> tuple[RowsCache, int]:
        """A cache that holds a prompt but for its last token, and how much it holds."""
        cache = self.network.rows_cache(1, positions)
        fill_slots(self.network, row, cache)
        ids = row.prompt_ids[:-1]
        if ids:
            read(self.network, [row], [ids], cache)
        return cache, row.used + len(ids)

    def _score(self, row: Row, ids: list[int], cache: RowsCache) -> CandidateScore:
        fed = row.prompt_ids[-1:] + ids[:-1]  # nothing is asked of what follows the last token
        hidden_1QE = read(self.network, [row], [fed], cache)
        logits_QV = self.network.logits(hidden_1QE)[0, : len(ids)].float()
        logprobs_QV = logits_QV.log_softmax(-1)
        ids_Q1 = torch.tensor(ids, device=logits_QV.device)[:, None]
        return CandidateScore(
            tuple(logprobs_QV.gather(1, ids_Q1)[:, 0].tolist()),
            tuple((logprobs_QV.argmax(-1) == ids_Q1[:, 0]).tolist()),
        )

    def _candidate_ids(self, candidate: str) -> list[int]:
        ids = self._ids(candidate)
        if not ids:
            raise InvalidArgument("a candidate is empty: give it a text", "EMPTY_TEXT")
        if len(ids) > self.max_new_tokens:
            raise InvalidArgument(
                f"a candidate has {len(ids)} tokens, the limit is {self.max_new_tokens}",
                "TEXT_TOO_LONG",
            )
        return ids

    def _rows(self, prompts, samplings, latents) -> list[Row]:
        latents = [None] * len(prompts) if latents is None else latents
        return [
            self.row(prompt, sampling, z_C)
            for prompt, sampling, z_C in zip(prompts, samplings, latents, strict=True)
        ]

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]
