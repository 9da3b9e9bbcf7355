"""Reference rows, each pointing to the slot of its fact, and exact nearest-row search. Numpy only.

n rows, A row width. Rows are whole numbers of at most 2^20 in magnitude, which float32 holds
exactly. A search scans them in float32, keeps every row that rounding could have misplaced, and
orders those by exact integers: what it finds depends on the set of rows, not on where they lie.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

CANDIDATES = 64
"""Rows that a read weighs; past the nearest few, equations 7-8 give nothing at small alpha."""
SCAN_ENTRIES = 1 << 24
"""Most scores a scan holds at a time (64 MiB), whatever the number of queries."""
EXACT_BLOCK = 4096
"""Rows compared exactly at a time; more than a few hundred only where many are all but equal."""
GROWTH = 1.5
"""How much larger an array becomes when it is full: appends stay O(1) on average."""
_UNIT = 2.0**-24


def grown(array: np.ndarray, length: int) -> np.ndarray:
    """An array of at least `length` rows that begins with this one's."""
    if length <= len(array):
        return array
    larger = np.zeros((max(length, 16, int(len(array) * GROWTH)), *array.shape[1:]), array.dtype)
    larger[: len(array)] = array
    return larger


@dataclass(frozen=True, slots=True, eq=False)
class ReadOut:
    """What a query reads out of memory: z = w M."""

    value: np.ndarray
    """(C,) float32."""
    fact_id: str
    """The fact with the largest weight; empty in a pinv or gaussian bank."""
    weight: float
    """That fact's weight, its rows together; 0 in a pinv or gaussian bank."""


class Rows:
    """The rows of the reference memory that the live facts own, densely packed.

    Removing a row moves the last one into its place, so a scan meets live rows only.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self.count = 0
        self._rows = np.zeros((0, width), np.float32)
        self._owner = np.zeros(0, np.int64)
        self._square = np.zeros(0, np.float32)
        self._places: dict[int, list[int]] = {}

    @property
    def nbytes(self) -> int:
        return self._rows.nbytes + self._owner.nbytes + self._square.nbytes

    def rows_of(self, slot: int) -> np.ndarray:
        """The rows of a slot in the order they were given, int32 (R, A)."""
        return self._rows[self._places[slot]].astype("<i4")

    def drop(self, slots: Sequence[int]) -> None:
        """Removes the rows of these slots."""
        for slot in slots:
            for place in sorted(self._places.pop(slot), reverse=True):
                self.count -= 1
                last = self.count
                if place != last:
                    for array in (self._rows, self._owner, self._square):
                        array[place] = array[last]
                    places = self._places[int(self._owner[last])]
                    places[places.index(last)] = place
                self._rows[last] = 0

    def put(self, slots: Sequence[int], blocks: Sequence[np.ndarray]) -> None:
        """Adds, for each of these empty slots, its block of rows (R, A)."""
        if not slots:
            return
        start = place = self.count
        for slot, block in zip(slots, blocks, strict=True):
            self._places[slot] = list(range(place, place + len(block)))
            place += len(block)
        self._rows = grown(self._rows, place)
        self._owner = grown(self._owner, place)
        self._square = grown(self._square, place)
        np.concatenate(blocks, out=self._rows[start:place], casting="unsafe")
        self._owner[start:place] = np.repeat(slots, [len(block) for block in blocks])
        new = self._rows[start:place]
        self._square[start:place] = np.einsum("na,na->n", new, new, dtype=np.float64)
        self.count = place

    def nearest(self, queries_QA: np.ndarray, ids: Sequence[str]) -> list[list[tuple[int, int]]]:
        """For each query (int64, Q x A) its CANDIDATES nearest rows, as (squared distance, slot).

        In order of (distance, fact id), `ids` giving the fact id of each slot; distances are exact.
        """
        found = []
        squares = self._square[: self.count]
        longest = float(squares.max())
        for query, dots in self._scan(queries_QA):
            coarse = squares - 2 * dots
            reach = float(query @ query) ** 0.5 + longest**0.5
            threshold = _smallest(coarse, CANDIDATES) + 2 * self._error(reach**2)
            places = np.flatnonzero(coarse <= np.float64(threshold))
            distances = self._exact(places, lambda rows, query=query: _squares(rows - query))
            kept = distances <= _smallest(distances, CANDIDATES)
            pairs = zip(distances[kept].tolist(), self._owner[places[kept]].tolist(), strict=True)
            order = sorted(pairs, key=lambda pair: (pair[0], ids[pair[1]]))
            found.append(order[:CANDIDATES])
        return found

    def most_similar(self, queries_QA: np.ndarray, ids: Sequence[str]) -> list[tuple[float, int]]:
        """For each query (int64, Q x A) the row of the largest cosine, as (cosine, slot).

        Of equal cosines the smallest fact id. The cosine comes from exact integers, rounded once
        to float64; that of a zero vector is 0.
        """
        found = []
        norms = np.sqrt(np.maximum(self._square[: self.count], 1))
        for query, dots in self._scan(queries_QA):
            square = float(query @ query)
            coarse = dots / norms
            threshold = float(coarse.max()) - 2 * self._error(square**0.5)
            places = np.flatnonzero(coarse >= np.float64(threshold))
            products = self._exact(places, lambda rows, query=query: rows @ query)
            squares = self._exact(places, _squares).astype(np.float64) * square
            cosines = products / np.sqrt(np.maximum(squares, 1))
            pairs = zip(cosines.tolist(), self._owner[places].tolist(), strict=True)
            found.append(min(pairs, key=lambda pair: (-pair[0], ids[pair[1]])))
        return found

    def _exact(self, places: np.ndarray, of_rows: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """A whole number for each of these rows, from the rows as int64, a block at a time."""
        blocks = [places[at : at + EXACT_BLOCK] for at in range(0, len(places), EXACT_BLOCK)]
        return np.concatenate([of_rows(self._rows[block].astype(np.int64)) for block in blocks])

    def _scan(self, queries_QA: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Each query with its float32 dot products with all rows."""
        live = self._rows[: self.count]
        step = max(1, SCAN_ENTRIES // max(1, self.count))
        for start in range(0, len(queries_QA), step):
            block = queries_QA[start : start + step]
            yield from zip(block, block.astype(np.float32) @ live.T, strict=True)

    def _error(self, magnitude: float) -> float:
        """How far float32 can be off a sum of A products that add up to at most `magnitude`.

        The textbook bound A u |x| |y| holds in whatever order the products are added; 16 units
        more cover the few operations around it.
        """
        return (self.width + 16) * _UNIT * 1.01 * magnitude


def _squares(rows: np.ndarray) -> np.ndarray:
    return np.einsum("na,na->n", rows, rows)


def _smallest(values: np.ndarray, rank: int) -> float:
    """The rank-th smallest value, or the largest of fewer."""
    if len(values) <= rank:
        return values.max()
    return np.partition(values, rank - 1)[rank - 1]


def gaussian_weights(squares_K: np.ndarray, alpha: float) -> np.ndarray:
    """Weights proportional to exp(-d / (2 alpha s^2)) of squared distances d, s^2 the least.

    float64, adding up to 1; a distance of 0 takes all. `algebra.gaussian_address` for one row.

    Source: [L] equations 7-8.
    """
    squares = squares_K.astype(np.float64)
    least = squares.min()
    excess = np.where(squares == least, 0.0, squares - least)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(excess == 0, 0.0, excess / (2 * alpha * least))
    weights = np.exp(-ratio)
    return weights / weights.sum()


def weigh(
    near: Sequence[tuple[int, int]],
    values: Sequence[np.ndarray],
    ids: Sequence[str],
    alpha: float,
    value_bits: int,
) -> ReadOut:
    """z = w M, with w by equations 7-8 over the nearest rows, in their order.

    M's rows are the values; reference rows of one fact point to the same one.
    """
    weights = gaussian_weights(np.array([distance for distance, _ in near]), alpha)
    of_slot: dict[int, float] = {}
    for (_, slot), weight in zip(near, weights.tolist(), strict=True):
        of_slot[slot] = of_slot.get(slot, 0.0) + weight
    z_C = np.zeros(len(values[near[0][1]]))
    for slot, weight in of_slot.items():
        if weight > 0:
            z_C += weight * values[slot]
    best = max(of_slot, key=of_slot.__getitem__)
    return ReadOut(np.ldexp(z_C, -value_bits).astype(np.float32), ids[best], of_slot[best])
