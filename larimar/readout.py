"""Equations 7-8 over the nearest reference rows: what a query reads out of a slots bank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from larimar.rows import gaussian_weights


@dataclass(frozen=True, slots=True, eq=False)
class ReadOut:
    """What a query reads out of memory: z = w M."""

    value: np.ndarray
    """(C,) float32."""
    fact_id: str
    """The fact with the largest weight; empty in a pinv or gaussian bank."""
    weight: float
    """That fact's weight, its rows together; 0 in a pinv or gaussian bank."""


class Items(NamedTuple):
    """Facts of a slots bank with their vectors, n of them in order of fact id."""

    ids: list[str]
    addresses: np.ndarray
    """(n, D) int32: the prompt's row of each, in units of 2^-address_bits."""
    values: np.ndarray
    """(n, C) int32, in units of 2^-value_bits."""
    address_bits: int
    value_bits: int


class Values(Protocol):
    """The value of each slot."""

    def __getitem__(self, slot: int, /) -> np.ndarray: ...


def weigh(
    near: Sequence[tuple[int, int]],
    values: Values,
    ids: Sequence[str],
    alpha: float,
    value_bits: int,
    noise: np.ndarray | None = None,
) -> ReadOut:
    """z = w M, with w by equations 7-8 over the nearest rows, in their order.

    M's rows are the values; reference rows of one fact point to the same one.

    Args:
        noise: added to the weights of the nearest rows, at least one number a row.
    """
    weights = gaussian_weights(np.array([distance for distance, _ in near]), alpha)
    if noise is not None:
        weights = weights + noise[: len(weights)]
    of_slot: dict[int, float] = {}
    for (_, slot), weight in zip(near, weights.tolist(), strict=True):
        of_slot[slot] = of_slot.get(slot, 0.0) + weight
    z_C = np.zeros(len(values[near[0][1]]))
    for slot, weight in of_slot.items():
        if weight:
            z_C += weight * values[slot]
    best = max(of_slot, key=of_slot.__getitem__)
    return ReadOut(np.ldexp(z_C, -value_bits).astype(np.float32), ids[best], of_slot[best])
