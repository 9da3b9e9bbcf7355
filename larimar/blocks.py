"""Arrays that grow: rows of one width in blocks, so that growing never copies what is held."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

BLOCK_ROWS = 1 << 14
"""Rows of a block: 25 MB at width 384, so that the copies of a growing block stay short."""
GROWTH = 1.5
"""How much larger an array becomes when it is full: appends stay O(1) on average."""
MIN_ROWS = 16
"""Rows of the smallest array."""


def grown(array: np.ndarray, length: int, fill: int = 0) -> np.ndarray:
    """An array of at least `length` rows that begins with this one's; `fill` beyond them."""
    if length <= len(array):
        return array
    room = max(length, MIN_ROWS, int(len(array) * GROWTH))
    larger = np.zeros((room, *array.shape[1:]), array.dtype)
    if fill:
        larger[len(array) :] = fill
    larger[: len(array)] = array
    return larger


class Blocks:
    """Rows of one width and type at places 0, 1, 2 ..., in blocks of BLOCK_ROWS.

    Only the last block grows by copying. A place holds nothing in particular before it is put.
    """

    def __init__(self, width: int, dtype: str) -> None:
        self.width = width
        self.dtype = np.dtype(dtype)
        self.nbytes = 0
        self._blocks: list[np.ndarray] = []

    def reserve(self, count: int) -> None:
        """Makes room for places 0 .. count - 1."""
        blocks = self._blocks
        for number in range(max(0, len(blocks) - 1), -(-count // BLOCK_ROWS)):
            rows = min(count - number * BLOCK_ROWS, BLOCK_ROWS)
            if number == len(blocks):
                blocks.append(np.zeros((0, self.width), self.dtype))
            before = blocks[number]
            if rows > len(before):
                after = grown(before, rows)[:BLOCK_ROWS]
                blocks[number] = after
                self.nbytes += after.nbytes - before.nbytes

    def put(self, places: np.ndarray, rows: np.ndarray) -> None:
        """Puts a row (n, width) at each of these places, which are reserved."""
        for block, within, which in self._split(places):
            block[within] = rows[which]

    def take(self, places: np.ndarray) -> np.ndarray:
        """A copy of the rows at these places, in their order (n, width)."""
        rows = np.empty((len(places), self.width), self.dtype)
        for block, within, which in self._split(places):
            rows[which] = block[within]
        return rows

    def __getitem__(self, place: int) -> np.ndarray:
        """The row at a place, a view."""
        return self._blocks[place // BLOCK_ROWS][place % BLOCK_ROWS]

    def spans(self, count: int) -> Iterator[tuple[int, np.ndarray]]:
        """Places 0 .. count - 1 as (first place, rows), a block at a time; views."""
        for number, block in enumerate(self._blocks):
            start = number * BLOCK_ROWS
            if start < count:
                yield start, block[: count - start]

    def _split(self, places: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray | slice, slice]]:
        """(block, places in it, which of the places) for each run of places in one block."""
        if not len(places):
            return
        numbers = places // BLOCK_ROWS
        edges = np.flatnonzero(np.diff(numbers)) + 1
        starts = [0, *edges.tolist()]
        for start, stop in zip(starts, [*starts[1:], len(places)], strict=True):
            within = places[start:stop] % BLOCK_ROWS
            first, last = int(within[0]), int(within[-1])
            run: np.ndarray | slice = within
            if last - first == stop - start - 1 > 0 and (np.diff(within) == 1).all():
                run = slice(first, last + 1)
            yield self._blocks[int(numbers[start])], run, slice(start, stop)
