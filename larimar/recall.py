"""Recursive reading: many facts read as episodes, the read-outs read again, until one is left.

n items, S episode size, D address size, C value size. Pure numpy, one order of operations.
Source: [L] section 5.5 (arXiv 2403.11901), with the weights of its equations 7-8.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from larimar.errors import FailedPrecondition, InvalidArgument
from larimar.rows import gaussian_weights

EPISODE_SIZE = 16
"""Facts of one episode where nobody says: [L] trains with episodes of 16."""
MIN_EPISODE_SIZE = 2
"""With fewer, a level would not be shorter than the one below it."""


@dataclass(frozen=True, slots=True, eq=False)
class RecursiveRead:
    """What is left of many facts when they are read with one query."""

    value: np.ndarray
    """z (C,) float64, in the units of the values."""
    weights_n: np.ndarray
    """Share of each item in z, float64; adds up to 1."""
    levels: int
    """How many times read-outs were read, the facts themselves included."""


def read_recursively(
    addresses_nD: np.ndarray,
    values_nC: np.ndarray,
    query_D: np.ndarray,
    episode_size: int,
    alpha: float,
) -> RecursiveRead:
    """Reads items, `episode_size` of them at a time, until one read-out is left.

    Each episode is read with the query; its read-out is an item of the next level: as value the
    mixture of the episode's values, as address the same mixture of its addresses. An item's
    weight is the product of its weights along the levels.

    The same items in the same order give the same bits, whatever the number of threads. Items
    of neighbouring places share an episode, so the order belongs to the result.

    Args:
        addresses_nD: floats, or fixed-point integers in the units of the query. A fact with
            rephrasings is one item an address, each with the fact's value.
        episode_size: items of one episode, 2 or more.
        alpha: width of equations 7-8, relative to the nearest squared distance.

    Raises:
        FailedPrecondition: there is no item.
        InvalidArgument: shapes that do not belong together, or an episode size under 2.

    Cost: O(n (D + C)), n / (S - 1) episodes in all, log_S n levels; 0.1 s for 10,000 items of
    D = 384 and C = 1,024 on one busy core. Holds the items once more, in float64.
    """
    items = np.ascontiguousarray(addresses_nD, np.float64)
    values_nC = np.ascontiguousarray(values_nC, np.float64)
    query_D = np.ascontiguousarray(query_D, np.float64)
    if items.ndim != 2 or values_nC.ndim != 2 or len(items) != len(values_nC):
        raise InvalidArgument(
            f"{items.shape} addresses and {values_nC.shape} values are not one a fact",
            "WRONG_SHAPE",
        )
    if query_D.shape != items.shape[1:]:
        raise InvalidArgument(
            f"the query has shape {query_D.shape}, an address {items.shape[1:]}", "WRONG_SHAPE"
        )
    if episode_size < MIN_EPISODE_SIZE:
        raise InvalidArgument(
            f"episode_size is {episode_size}, it must be at least {MIN_EPISODE_SIZE}",
            "BAD_EPISODE_SIZE",
        )
    if not len(items):
        raise FailedPrecondition("there is nothing to read; write or ingest first", "EMPTY_BANK")

    weights_n = np.ones(len(items))
    width, levels = 1, 0
    while levels == 0 or len(items) > 1:
        apart = items - query_D
        squares = np.einsum("nd,nd->n", apart, apart)
        starts = range(0, len(items), episode_size)
        shares = [gaussian_weights(squares[at : at + episode_size], alpha) for at in starts]
        weights_n *= np.repeat(np.concatenate(shares), width)[: len(weights_n)]
        items = _mixtures(items, shares, episode_size)
        values_nC = _mixtures(values_nC, shares, episode_size)
        width *= episode_size
        levels += 1
    return RecursiveRead(values_nC[0], weights_n, levels)


def _mixtures(rows_nX: np.ndarray, shares: list[np.ndarray], episode_size: int) -> np.ndarray:
    """Each episode's rows added up with their shares."""
    return np.stack(
        [
            np.einsum("k,kx->x", share, rows_nX[at * episode_size : (at + 1) * episode_size])
            for at, share in enumerate(shares)
        ]
    )
