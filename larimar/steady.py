"""What of this machine's kernels a row's bits do not depend on: tried, never taken for granted.

Shapes: R rows, Q tokens of a pass, K positions of a row, V vocabulary.
What a kernel adds up in which order depends on shapes, not on the numbers: so random ones tell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from larimar.cache import LEAST_POSITIONS, RowsCache
from larimar.lean import Pass
from larimar.packing import is_packed

if TYPE_CHECKING:
    from larimar.decoder import DecoderNetwork

MAX_ROWS = 16
"""Rows of a step: more than a machine's matrix instructions take at once bring little."""
PROMPTS_TOGETHER = (4, 2)
"""Prompts of one pass: of a 6-layer decoder four cost less than twice as much as one."""


@torch.inference_mode()
def steady_row_counts(network: DecoderNetwork) -> tuple[int, ...]:
    """Numbers of rows of a step at which each row's hidden state and logits are the same bits.

    Looked for by steps of random rows, in other places and other company. Where rows are not
    independent, or where the weights are not packed, every step has MAX_ROWS rows.
    """
    if not is_packed(network.lm):
        return (MAX_ROWS,)
    counts = [1 << bits for bits in range(1, MAX_ROWS.bit_length())]
    for positions in (LEAST_POSITIONS, 4 * LEAST_POSITIONS):
        cache = _filled_at_random(network, MAX_ROWS, positions)
        wanted_RV = _probed(network, cache, list(range(MAX_ROWS)))
        backwards = list(range(MAX_ROWS - 1, -1, -1))
        counts = [
            count
            for count in counts
            if torch.equal(_probed(network, cache, backwards[:count]), wanted_RV[backwards[:count]])
        ]
    return tuple(counts) if MAX_ROWS in counts else (MAX_ROWS,)


def _probed(network: DecoderNetwork, cache: RowsCache, places: list[int]) -> torch.Tensor:
    """Logits, (R, V), of some of a cache's rows after a token of each, in a step of their own."""
    at = [cache.positions // 2 + place for place in places]
    return _continued(network, cache.taken(places), at, [place + 1 for place in places])


@torch.inference_mode()
def steady_prompt_counts(network: DecoderNetwork, positions: int, width: int) -> tuple[int, ...]:
    """Those of PROMPTS_TOGETHER at which each prompt leaves the bits in its cache that it leaves
    when it is read alone.

    Looked for as `steady_row_counts` does. Cost: a pass for each of the most rows, and for each of
    the numbers.

    Args:
        positions: K of the rows' caches.
        width: Q of the passes.
    """
    if not width:
        return PROMPTS_TOGETHER
    drawn = torch.Generator().manual_seed(width)
    vocabulary = network.lm.get_input_embeddings().weight.shape[0]
    ids_RQ = torch.randint(vocabulary, (PROMPTS_TOGETHER[0], width), generator=drawn)
    alone = [_left_in_cache(network, ids_1Q[None], positions) for ids_1Q in ids_RQ]
    found = []
    for count in PROMPTS_TOGETHER:
        left = _left_in_cache(network, ids_RQ.flip(0)[:count], positions)
        wanted = [torch.cat(rows) for rows in zip(*alone[::-1][:count], strict=True)]
        if all(map(torch.equal, left, wanted)):
            found.append(count)
    return tuple(found)


def _left_in_cache(
    network: DecoderNetwork, ids_RQ: torch.Tensor, positions: int
) -> list[torch.Tensor]:
    """What a pass over whole prompts leaves: keys and values of every layer, (R, K, H, d)."""
    rows, width = ids_RQ.shape
    cache = network.rows_cache(rows, positions)
    at_RQ = torch.arange(width).expand(rows, -1)
    counted_RQ = at_RQ.clamp(max=network.positions - 1)
    places_RQ = at_RQ + positions * torch.arange(rows)[:, None]
    visible_RQK = torch.arange(positions) <= at_RQ[:, :, None]
    network.step(Pass(ids_RQ, counted_RQ, visible_RQK, places_RQ.flatten(), cache))
    return [one for pair in cache.stored() for one in pair]


@torch.inference_mode()
def steady_draft_counts(
    network: DecoderNetwork, positions: int, alone: int, counts: tuple[int, ...]
) -> tuple[int, ...]:
    """Those numbers of tokens of one row that may be read in one pass, each as a row that sees
    those before it: they leave the bits that they leave one after another, in logits and cache.

    Cost: a step for each of the most tokens, and one for each of the numbers.

    Args:
        positions: K of the row.
        alone: R of a step of one row.
        counts: R of the passes that are tried.
    """
    first, last = positions // 2, positions // 2 + max(counts)
    before = _filled_at_random(network, 1, positions)
    one_by_one = before.taken([0] * alone)
    wanted_TV = torch.cat(
        [
            _continued(network, one_by_one, [at] * alone, [1 + at - first] * alone)[:1]
            for at in range(first, last)
        ]
    )
    found = []
    for count in counts:
        together, at = before.taken([0]), list(range(first, first + count))
        ids = [1 + place - first for place in at]
        said_TV = _continued(network, together.shared(0, count), at, ids)
        left = [
            torch.equal(mine[0, : first + count], other[0, : first + count])
            for pair, others in zip(together.stored(), one_by_one.stored(), strict=True)
            for mine, other in zip(pair, others, strict=True)
        ]
        if all(left) and torch.equal(said_TV, wanted_TV[:count]):
            found.append(count)
    return tuple(found)


def _continued(
    network: DecoderNetwork, cache: RowsCache, at: list[int], ids: list[int]
) -> torch.Tensor:
    """Logits, (R, V), after one token a row, each at a place of its row."""
    device = network.device
    at_R1 = torch.tensor(at)[:, None]
    rows_R = torch.arange(len(at)) if cache.readers == 1 else torch.zeros(len(at), dtype=torch.long)
    visible_R1K = (torch.arange(cache.positions) <= at_R1)[:, None]
    step = Pass(
        torch.tensor(ids, device=device)[:, None],
        at_R1.clamp(max=network.positions - 1).to(device),
        visible_R1K.to(device),
        (at_R1[:, 0] + cache.positions * rows_R).to(device),
        cache,
    )
    return network.logits(network.step(step))[:, -1]


def _filled_at_random(network: DecoderNetwork, rows: int, positions: int) -> RowsCache:
    """A cache of normal numbers, the same ones for as many rows of any shape."""
    cache = network.rows_cache(rows, positions)
    for layer in cache.layers:
        for stored in layer.stored:
            drawn = torch.Generator(stored.device).manual_seed(rows)
            stored.normal_(generator=drawn)
    return cache
