"""Candidates of many prompts scored together: thousands of prompts take minutes, not hours.

A row holds a prompt and all of its candidates behind it; each candidate sees the prompt and
itself. One pass a row then gives every candidate's log probabilities. All passes have one of a
few fixed shapes, so that a row's figures do not depend on the rows beside it. They are those of
`Decoder.score` but for rounding, which other shapes do otherwise.

Shapes: B rows, T tokens, S slots, C value size, E decoder width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from larimar.decoder import CandidateScore, Decoder
from larimar.errors import InvalidArgument

ROWS = 16
"""Rows of every pass, filled up with copies."""
LENGTHS = tuple(16 << bits for bits in range(8))
"""Tokens of every row, padded at its end."""
HEAD_ROWS = 64
"""Hidden states that go through the decoder's head together, filled up with copies."""


@dataclass(frozen=True)
class Job:
    """A prompt, its candidates, and the latent (C,) that it is decoded with, if any."""

    prompt: str
    candidates: Sequence[str]
    latent: np.ndarray | None


@dataclass(frozen=True)
class _Row:
    """A job's tokens: the prompt, then each candidate but for its last token."""

    ids: list[int]
    prompt: int
    """Tokens of the prompt."""
    candidates: list[list[int]]
    starts: list[int]
    """Where each candidate begins among the ids."""
    latent: np.ndarray | None

    def sources(self) -> list[int]:
        """Places whose hidden states say each candidate's tokens, in order."""
        return [
            self.prompt - 1 if i == 0 else start + i - 1
            for start, ids in zip(self.starts, self.candidates, strict=True)
            for i in range(len(ids))
        ]


@torch.inference_mode()
def score_together(decoder: Decoder, jobs: Sequence[Job]) -> list[tuple[CandidateScore, ...]]:
    """Each job's candidates, teacher-forced.

    Raises:
        InvalidArgument: an empty or too long prompt or candidate.
    """
    rows = [_row(decoder, job) for job in jobs]
    groups: dict[tuple[bool, int], list[int]] = {}
    for place, row in enumerate(rows):
        length = next((size for size in LENGTHS if len(row.ids) <= size), None)
        if length is None:
            raise InvalidArgument(
                f"a prompt with its candidates has {len(row.ids)} tokens, at most {LENGTHS[-1]} "
                "are scored together: give fewer candidates",
                "TEXT_TOO_LONG",
            )
        groups.setdefault((row.latent is not None, length), []).append(place)
    scores: dict[int, tuple[CandidateScore, ...]] = {}
    for (_, length), places in groups.items():
        for low in range(0, len(places), ROWS):
            batch = places[low : low + ROWS]
            found = _scores(decoder, [rows[place] for place in batch], length)
            scores.update(zip(batch, found, strict=True))
    return [scores[place] for place in range(len(rows))]


def _row(decoder: Decoder, job: Job) -> _Row:
    ids = decoder.tokenize(job.prompt)
    prompt, candidates, starts = len(ids), [], []
    for text in job.candidates:
        own = decoder.tokenizer(text, add_special_tokens=False)["input_ids"]
        if not own:
            raise InvalidArgument("a candidate is empty: give it a text", "EMPTY_TEXT")
        starts.append(len(ids))
        candidates.append(own)
        ids = ids + own[:-1]  # nothing is asked of what follows the last token
    return _Row(ids, prompt, candidates, starts, job.latent)


def _scores(decoder: Decoder, rows: list[_Row], length: int) -> list[tuple[CandidateScore, ...]]:
    hidden_BTE = _hidden(decoder, rows + rows[:1] * (ROWS - len(rows)), length)
    states = [hidden_BTE[place, row.sources()] for place, row in enumerate(rows)]
    targets = torch.tensor([token for row in rows for ids in row.candidates for token in ids])
    logprobs, argmax = _chosen(decoder, torch.cat(states), targets)
    at, found = 0, []
    for row in rows:
        ends = []
        for ids in row.candidates:
            some = slice(at, at + len(ids))
            ends.append(CandidateScore(tuple(logprobs[some]), tuple(argmax[some])))
            at += len(ids)
        found.append(tuple(ends))
    return found


def _hidden(decoder: Decoder, rows: list[_Row], length: int) -> torch.Tensor:
    """Last hidden states of all rows, (B, T, E)."""
    network = decoder.network
    connector = network.connector
    weights = connector.to_slot.weight
    slots, first = 0, 0
    inputs, cache = {}, None
    ids_BT = torch.full((ROWS, length), decoder.pad_id)
    positions_BT = torch.zeros((ROWS, length), dtype=torch.long)
    seen_BTT = torch.ones((ROWS, length, length), dtype=torch.bool).tril()
    for place, row in enumerate(rows):
        ids_BT[place, : len(row.ids)] = torch.tensor(row.ids)
        positions_BT[place, : row.prompt] = torch.arange(row.prompt)
        for start, ids in zip(row.starts, row.candidates, strict=True):
            end = start + len(ids) - 1
            positions_BT[place, start:end] = row.prompt + torch.arange(end - start)
            seen_BTT[place, start:end, row.prompt : start] = False
    ids_BT = ids_BT.to(weights.device)
    inputs["input_ids"] = ids_BT
    embeddings = network.lm.get_input_embeddings()
    latents = [row.latent for row in rows if row.latent is not None]
    if latents:
        z_BC = torch.from_numpy(np.stack(latents)).to(weights.device, weights.dtype)
        cache = connector.cache(z_BC)
        slots, first = connector.layout.slots, connector.layout.first_position
        added = connector.embedding(z_BC)
        if added is not None:
            inputs = {"inputs_embeds": embeddings(ids_BT) + added.to(embeddings.weight.dtype)}
    seen_BTK = torch.cat([seen_BTT.new_ones((ROWS, length, slots)), seen_BTT], dim=2)
    mask_BTK = torch.zeros(seen_BTK.shape, dtype=embeddings.weight.dtype)
    mask_BTK.masked_fill_(~seen_BTK, -torch.inf)
    return network.lm.base_model(
        **inputs,
        attention_mask=mask_BTK[:, None].to(weights.device),
        position_ids=(positions_BT + first).to(weights.device),
        past_key_values=cache,
        use_cache=cache is not None,
    ).last_hidden_state


def _chosen(
    decoder: Decoder, states_NE: torch.Tensor, targets_N: torch.Tensor
) -> tuple[list[float], list[bool]]:
    """Log probability of each state's target, and whether it is the most probable token."""
    logprobs: list[float] = []
    argmax: list[bool] = []
    for low in range(0, len(states_NE), HEAD_ROWS):
        some_NE, wanted_N = states_NE[low : low + HEAD_ROWS], targets_N[low : low + HEAD_ROWS]
        filled_NE = torch.cat([some_NE, some_NE[:1].expand(HEAD_ROWS - len(some_NE), -1)])
        logits_NV = decoder.network.logits(filled_NE[None])[0, : len(some_NE)].float()
        wanted_N1 = wanted_N.to(logits_NV.device)[:, None]
        logprobs += logits_NV.log_softmax(-1).gather(1, wanted_N1)[:, 0].tolist()
        argmax += (logits_NV.argmax(-1) == wanted_N1[:, 0]).tolist()
    return logprobs, argmax
