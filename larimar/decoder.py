"""d: the causal language model, with or without a latent in its cache.

Shapes: B rows, T tokens, C value size, E decoder width, V vocabulary.
Without a latent this is the plain decoder: no slot, no added embedding, its own
positions. Rows with and without a latent are never in one batch. Prompts run in fixed
shapes, as texts do in the encoder: a row's answer, to the bit, does not depend on what
it is decoded beside.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache

from larimar.connector import Connector
from larimar.errors import InvalidArgument

BUCKET_TOKENS = (16, 32, 64, 128, 256, 512, 1024)
"""Lengths that prompts are padded to, on the left."""
BUCKET_ROWS = 8
"""Rows of every pass, padded with copies: a step of 8 rows costs little more than one of 1."""


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How tokens are chosen: greedy unless a temperature is set."""

    max_tokens: int = 32
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Piece:
    """What one decoding step added to one row's text."""

    text: str
    finish_reason: str = ""
    tokens: int = 0


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

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Next-token logits of hidden states, (..., E) -> (..., V)."""
        head = getattr(self.lm, "cls", None) or self.lm.lm_head
        return head(hidden)


class Decoder:
    """Generates and scores text with a decoder network.

    Cost: one forward pass over the prompt, then one per token; B rows share each pass.
    """

    def __init__(
        self,
        network: DecoderNetwork,
        tokenizer,
        max_prompt_tokens: int,
        max_new_tokens: int,
    ) -> None:
        self.network = network.eval()
        self.tokenizer = tokenizer
        self.max_prompt_tokens = max_prompt_tokens
        self.max_new_tokens = max_new_tokens
        self.value_size = network.connector.layout.value_size
        self.device = network.connector.to_slot.weight.device
        self.dtype = network.connector.to_slot.weight.dtype
        first = tokenizer.cls_token_id
        self.start_id = first if first is not None else tokenizer.bos_token_id
        last = tokenizer.sep_token_id
        self.stop_id = last if last is not None else tokenizer.eos_token_id
        pad = tokenizer.pad_token_id
        self.pad_id = pad if pad is not None else self.stop_id

    def tokenize(self, prompt: str) -> list[int]:
        """Ids of a prompt, its start token included.

        Raises:
            InvalidArgument: the prompt is empty or past `max_prompt_tokens`.
        """
        ids = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        if not ids:
            raise InvalidArgument("the prompt is empty: give it a text", "EMPTY_TEXT")
        if len(ids) > self.max_prompt_tokens:
            raise InvalidArgument(
                f"the prompt has {len(ids)} tokens, the limit is {self.max_prompt_tokens}: "
                "shorten it",
                "TEXT_TOO_LONG",
            )
        return [self.start_id, *ids] if self.start_id is not None else ids

    def bucket(self, prompt: str) -> int:
        """Padded length of a prompt: prompts of one bucket may share a batch.

        Raises:
            InvalidArgument: as `tokenize`.
        """
        return _bucket(len(self.tokenize(prompt)))

    def check(self, sampling: Sampling) -> None:
        """Raises: InvalidArgument, naming the setting that is out of range."""
        if not 1 <= sampling.max_tokens <= self.max_new_tokens:
            raise InvalidArgument(
                f"max_tokens is {sampling.max_tokens}, it must be 1 to {self.max_new_tokens}",
                "BAD_SAMPLING",
            )
        if not 0.0 <= sampling.temperature <= 10.0:
            raise InvalidArgument("temperature must be 0 to 10", "BAD_SAMPLING")
        if not 0.0 < sampling.top_p <= 1.0:
            raise InvalidArgument("top_p must be above 0 and at most 1", "BAD_SAMPLING")
        if len(sampling.stop) > 4 or any(not stop for stop in sampling.stop):
            raise InvalidArgument("stop takes at most 4 strings, none empty", "BAD_SAMPLING")

    def generate(
        self,
        prompts: Sequence[str],
        samplings: Sequence[Sampling],
        z_BC: torch.Tensor | None = None,
    ) -> Iterator[list[Piece]]:
        """Continues up to BUCKET_ROWS prompts of one bucket, a piece a row at every step.

        A row's last piece has a finish reason; pieces after that are empty. Leading
        blanks belong to the text. With a given seed a row's text is the same whatever
        it is decoded beside.

        Raises:
            InvalidArgument: as `tokenize` and `check`, too many prompts, or several buckets.
        """
        rows = [self.tokenize(prompt) for prompt in prompts]
        for sampling in samplings:
            self.check(sampling)
        if not 1 <= len(rows) <= BUCKET_ROWS or len({_bucket(len(ids)) for ids in rows}) > 1:
            raise InvalidArgument(
                f"one batch takes 1 to {BUCKET_ROWS} prompts of one bucket: see Decoder.bucket",
                "BAD_BATCH",
            )
        return self._generate(rows, samplings, z_BC)

    @torch.inference_mode()
    def _generate(self, rows, samplings, z_BC) -> Iterator[list[Piece]]:
        real = len(rows)
        rows = _filled(rows)
        if z_BC is not None:
            z_BC = z_BC[_filled(list(range(real)))].to(self.device, self.dtype)
        length = _bucket(len(rows[0]))
        ids_BT = torch.full((BUCKET_ROWS, length), self.pad_id)
        mask_BT = torch.zeros((BUCKET_ROWS, length), dtype=torch.bool)
        for row, ids in enumerate(rows):
            ids_BT[row, length - len(ids) :] = torch.tensor(ids)
            mask_BT[row, length - len(ids) :] = True
        ids_BT, mask_BT = ids_BT.to(self.device), mask_BT.to(self.device)
        cache = DynamicCache() if z_BC is None else self.network.connector.cache(z_BC)
        tails = [
            _Tail(self.tokenizer, self.stop_id, sampling, prompt_ids)
            for sampling, prompt_ids in zip(samplings, rows[:real], strict=True)
        ]
        while True:
            hidden_BTE = self.network.hidden(ids_BT, mask_BT, z_BC, cache)
            logits_BV = self.network.logits(hidden_BTE[:, -1:]).float().cpu()[:, -1]
            pieces = [tail.step(logits_BV[row]) for row, tail in enumerate(tails)]
            yield pieces
            if all(tail.finished for tail in tails):
                return
            ids_BT = torch.tensor(_filled([[tail.last_id] for tail in tails]), device=self.device)
            mask_BT = torch.cat([mask_BT, mask_BT.new_ones((BUCKET_ROWS, 1))], dim=1)

    @torch.inference_mode()
    def score(
        self,
        prompt: str,
        candidates: Sequence[str],
        z_C: torch.Tensor | None = None,
    ) -> list[CandidateScore]:
        """Log probabilities of candidate continuations of one prompt, teacher-forced.

        Raises:
            InvalidArgument: no candidates, an empty one, or a text past its limit.
        """
        if not candidates:
            raise InvalidArgument("give at least one candidate to score", "EMPTY_TEXT")
        head = self.tokenize(prompt)
        rows = []
        for candidate in candidates:
            ids = self.tokenizer(candidate, add_special_tokens=False)["input_ids"]
            if not ids:
                raise InvalidArgument("a candidate is empty: give it a text", "EMPTY_TEXT")
            if len(ids) > self.max_new_tokens:
                raise InvalidArgument(
                    f"a candidate has {len(ids)} tokens, the limit is {self.max_new_tokens}",
                    "TEXT_TOO_LONG",
                )
            rows.append(ids)
        scores: dict[int, CandidateScore] = {}
        for length in sorted({_bucket(len(ids)) for ids in rows}):
            places = [place for place, ids in enumerate(rows) if _bucket(len(ids)) == length]
            for low in range(0, len(places), BUCKET_ROWS):
                batch = places[low : low + BUCKET_ROWS]
                found = self._score_batch(head, [rows[place] for place in batch], z_C)
                scores.update(zip(batch, found, strict=True))
        return [scores[place] for place in range(len(rows))]

    def _score_batch(
        self, head: list[int], rows: list[list[int]], z_C: torch.Tensor | None
    ) -> list[CandidateScore]:
        length = _bucket(len(head)) + _bucket(len(rows[0]))
        ids_BT = torch.full((BUCKET_ROWS, length), self.pad_id)
        mask_BT = torch.zeros((BUCKET_ROWS, length), dtype=torch.bool)
        start = _bucket(len(head)) - len(head)
        for row, ids in enumerate(_filled(rows)):
            fed = head + ids[:-1]  # nothing is asked of what follows the last token
            ids_BT[row, start : start + len(fed)] = torch.tensor(fed)
            mask_BT[row, start : start + len(fed)] = True
        z_BC = None
        if z_C is not None:
            z_BC = z_C[None].expand(BUCKET_ROWS, -1).to(self.device, self.dtype)
        hidden_BTE = self.network.hidden(ids_BT.to(self.device), mask_BT.to(self.device), z_BC)
        first = start + len(head) - 1
        logprobs = self.network.logits(hidden_BTE[:, first:-1]).float().log_softmax(-1).cpu()
        scores = []
        for row, ids in enumerate(rows):
            steps = range(len(ids))
            scores.append(
                CandidateScore(
                    tuple(logprobs[row, step, ids[step]].item() for step in steps),
                    tuple(logprobs[row, step].argmax().item() == ids[step] for step in steps),
                )
            )
        return scores


def _bucket(tokens: int) -> int:
    return next(size for size in BUCKET_TOKENS if tokens <= size)


def _filled(rows: list) -> list:
    return rows + [rows[0]] * (BUCKET_ROWS - len(rows))


class _Tail:
    """The text that one row has generated so far."""

    def __init__(self, tokenizer, stop_id: int, sampling: Sampling, prompt_ids: list[int]) -> None:
        self.tokenizer = tokenizer
        self.stop_id = stop_id
        self.sampling = sampling
        self.generator = torch.Generator().manual_seed(sampling.seed)
        self.anchor = prompt_ids[-1:]
        self.anchor_text = tokenizer.decode(self.anchor)
        self.ids: list[int] = []
        self.text = ""
        self.finished = False

    @property
    def last_id(self) -> int:
        return self.ids[-1] if self.ids else self.stop_id

    def step(self, logits_V: torch.Tensor) -> Piece:
        """Chooses the next token and says what text it adds."""
        if self.finished:
            return Piece("")
        token = self._choose(logits_V)
        if token == self.stop_id:
            return self._finish(self._decoded(), "stop")
        self.ids.append(token)
        text = self._decoded()
        cuts = [text.find(stop) for stop in self.sampling.stop if stop in text]
        if cuts:
            return self._finish(text[: min(cuts)], "stop")
        if len(self.ids) >= self.sampling.max_tokens:
            return self._finish(text, "length")
        held = max((len(stop) - 1 for stop in self.sampling.stop), default=0)
        ready = text[: max(0, len(text) - held)]
        if ready.endswith("�") or not ready.startswith(self.text):
            return Piece("", tokens=len(self.ids))
        piece, self.text = ready[len(self.text) :], ready
        return Piece(piece, tokens=len(self.ids))

    def _choose(self, logits_V: torch.Tensor) -> int:
        if self.sampling.temperature == 0.0:
            return int(logits_V.argmax())
        probs_V = (logits_V / self.sampling.temperature).softmax(-1)
        if self.sampling.top_p < 1.0:
            sorted_V, order_V = probs_V.sort(descending=True)
            keep_V = sorted_V.cumsum(-1) - sorted_V < self.sampling.top_p
            probs_V = torch.zeros_like(probs_V).scatter(0, order_V[keep_V], sorted_V[keep_V])
        return int(torch.multinomial(probs_V, 1, generator=self.generator))

    def _decoded(self) -> str:
        whole = self.tokenizer.decode(self.anchor + self.ids)
        return whole[len(self.anchor_text) :]

    def _finish(self, text: str, reason: str) -> Piece:
        self.finished = True
        piece = text[len(self.text) :] if text.startswith(self.text) else ""
        self.text = text
        return Piece(piece, reason, len(self.ids))
