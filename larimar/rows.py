"""Reference rows, each owned by the slot of its fact, and nearest-row search.

n rows, A row width. Rows are whole numbers of at most 2^20 in magnitude, which float32 holds
exactly. A search scans them in float32, keeps every row that rounding could have misplaced, and
orders those by exact integers: what it finds depends on the set of rows, not on where they lie.

From INDEX_ROWS rows on the rows to be ordered come from an index (larimar/index.py) instead of a
scan: the order among them is as exact, but the index may miss a row that lies far off the query.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from larimar.blocks import Blocks, grown
from larimar.index import Index

CANDIDATES = 64
"""Rows that a read weighs; past the nearest few, equations 7-8 give nothing at small alpha."""
INDEX_ROWS = 1 << 12
"""Rows from which an index proposes: to scan as many takes 0.4 ms, as an index takes. A scan of
10,000 takes 1 ms, on two idle cores; where other processes want them, 10 and more."""
PROPOSED = 4 * CANDIDATES
"""Rows that the index is asked for: its codes misplace a row by a few ranks."""
MOST_PROPOSED = 2048
"""Most rows that the index is asked for, where many are equally near; then all rows are scanned."""
MOST_UNLISTED = 4096
"""Rows unknown to the index that are compared one by one; with more, all rows are scanned."""
SCAN_ENTRIES = 1 << 24
"""Most scores a scan holds at a time (64 MiB), whatever the number of queries."""
EXACT_BLOCK = 4096
"""Rows compared exactly at a time; more than a few hundred only where many are all but equal."""
MOVED_FACTS = 1024
"""Facts whose rows are moved at a time when the dead rows are left behind."""
SQUARED_ROWS = 4096
"""Rows squared at a time: a copy of them stays in the cache."""
MIN_DEAD = 4096
"""Dead rows that are not worth a move."""
NONE = -1
"""In place of an owner, a first or a next row: there is none."""
_UNIT = 2.0**-24


class Rows:
    """The rows of the reference memory that the live facts own.

    A row stays at its place until it is dropped; then the next row put takes the place. Where more
    places are dead than alive all rows move together, so scan and memory follow the live rows.

    Args:
        by_cosine: whether rows are looked up by `most_similar`; else by `nearest`.
        index_when_asked: whether an index is begun by a query only. It takes a core while it is
            trained and filled, for nothing where nobody asks.
    """

    def __init__(self, width: int, by_cosine: bool = False, index_when_asked: bool = False) -> None:
        self.width = width
        self.by_cosine = by_cosine
        self._waits_for_a_query = index_when_asked
        self.live = 0
        """Rows that a fact owns."""
        self._clear()

    def _clear(self) -> None:
        self._count = 0
        self._rows = Blocks(self.width, "<f4")
        self._owner = np.zeros(0, np.int32)
        self._next = np.zeros(0, np.int32)
        self._square = np.zeros(0, np.float32)
        self._first = np.zeros(0, np.int32)
        self._free: list[int] = []
        self._index: Index | None = None

    @property
    def nbytes(self) -> int:
        places = (self._owner, self._next, self._square, self._first)
        index = 0 if self._index is None else self._index.nbytes
        return self._rows.nbytes + sum(array.nbytes for array in places) + index

    @property
    def indexed(self) -> bool:
        """Whether an index proposes rows by now."""
        return self._index is not None and self._index.unlisted() is not None

    def settle(self, timeout_s: float) -> bool:
        """Waits until the index has taken in all it is going to; whether it has."""
        return self._index is None or self._index.settle(timeout_s)

    def places_of(self, slots: np.ndarray) -> np.ndarray:
        """The places of the rows of these slots: slot by slot, in the order they were given."""
        places = self._first[slots].astype(np.int64)
        owners = np.arange(len(slots))
        level_places, level_owners = [], []
        while len(places):
            level_places.append(places)
            level_owners.append(owners)
            after = self._next[places].astype(np.int64)
            goes_on = after != NONE
            places, owners = after[goes_on], owners[goes_on]
        if len(level_places) < 2:
            return level_places[0] if level_places else np.zeros(0, np.int64)
        order = np.argsort(np.concatenate(level_owners), kind="stable")
        return np.concatenate(level_places)[order]

    def rows_of(self, slots: np.ndarray) -> np.ndarray:
        """The rows of these slots: slot by slot, in the order they were given, int32 (n, A)."""
        return self._rows.take(self.places_of(slots)).astype("<i4")

    def first_rows_of(self, slots: np.ndarray) -> np.ndarray:
        """The first row of each of these slots, int32 (n, A)."""
        return self._rows.take(self._first[slots].astype(np.int64)).astype("<i4")

    def drop(self, slots: np.ndarray) -> None:
        """Removes the rows of these slots."""
        places = self.places_of(slots)
        self._owner[places] = NONE
        self._square[places] = np.inf
        self._first[slots] = NONE
        self._free.extend(places.tolist())
        self.live -= len(places)
        if self._index is not None:
            self._index.drop(places)
            if self.live < INDEX_ROWS // 4:
                self._index = None

    def put(self, slots: np.ndarray, counts: np.ndarray, rows: np.ndarray) -> None:
        """Adds rows (n, A), slot by slot, `counts` (at least 1) for each of these empty slots."""
        if not len(slots):
            return
        reused = min(len(rows), len(self._free))
        start, stop = self._count, self._count + len(rows) - reused
        taken = self._free[len(self._free) - reused :]
        del self._free[len(self._free) - reused :]
        places = np.concatenate([np.array(taken, np.int64), np.arange(start, stop)])
        self._rows.reserve(stop)
        self._owner = grown(self._owner, stop, NONE)
        self._next = grown(self._next, stop, NONE)
        self._square = grown(self._square, stop)
        self._first = grown(self._first, int(slots.max()) + 1, NONE)
        self._count = stop

        self._rows.put(places, rows)
        for at in range(0, len(rows), SQUARED_ROWS):
            new = rows[at : at + SQUARED_ROWS].astype(np.float32)
            square = np.einsum("na,na->n", new, new, dtype=np.float64)
            self._square[places[at : at + SQUARED_ROWS]] = square
        self._owner[places] = np.repeat(slots, counts)
        ends = np.cumsum(counts)
        after = np.append(places[1:], NONE)
        after[ends - 1] = NONE
        self._next[places] = after
        self._first[slots] = places[ends - counts]
        self.live += len(rows)
        if self._index is not None:
            self._index.put(places)
        elif not self._waits_for_a_query:
            self._index_if_many()

    def _index_if_many(self) -> None:
        if self._index is None and self.live >= INDEX_ROWS:
            self._index = Index(
                self._rows, np.flatnonzero(self._owner[: self._count] != NONE), self.by_cosine
            )

    @property
    def is_sparse(self) -> bool:
        """Whether more places are free than hold a row, so that `compact` pays."""
        return len(self._free) > max(self.live, MIN_DEAD)

    def compact(self) -> None:
        """Moves the live rows together. Cost: 5 us a row of 384 numbers."""
        slots = np.flatnonzero(self._first != NONE)
        rows, places = self._rows, self.places_of(slots)
        counts = np.bincount(self._owner[places], minlength=len(self._first))[slots]
        starts = np.append(0, np.cumsum(counts))
        self.live = 0
        self._clear()
        for low in range(0, len(slots), MOVED_FACTS):
            high = min(low + MOVED_FACTS, len(slots))
            moved = rows.take(places[starts[low] : starts[high]])
            self.put(slots[low:high], counts[low:high], moved)

    def nearest(self, queries_QA: np.ndarray, ids: Sequence[str]) -> list[list[tuple[int, int]]]:
        """For each query (int64, Q x A) its CANDIDATES nearest rows, as (squared distance, slot).

        In order of (distance, fact id), `ids` giving the fact id of each slot; distances are exact.
        """
        found = []
        near = self._places_near(queries_QA, self._scan_nearest, self._distances, self._all_near)
        for places, distances in near:
            kept = distances <= smallest(distances, CANDIDATES)
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
        near = self._places_near(queries_QA, self._scan_similar, self._cosines, self._all_similar)
        for places, cosines in near:
            pairs = zip(cosines.tolist(), self._owner[places].tolist(), strict=True)
            found.append(min(pairs, key=lambda pair: (-pair[0], ids[pair[1]])))
        return found

    def all_similar(self, queries_QA: np.ndarray, least: float) -> list[list[int]]:
        """For each query (int64, Q x A) the slots of all rows of the largest cosine.

        None where that cosine is below `least`.
        """
        found = []
        near = self._places_near(queries_QA, self._scan_similar, self._cosines, self._all_similar)
        for places, cosines in near:
            largest = cosines.max()
            tied = places[cosines == largest] if largest >= least else places[:0]
            found.append(np.unique(self._owner[tied]).tolist())
        return found

    def _places_near(
        self,
        queries_QA: np.ndarray,
        scan: Callable[[np.ndarray], Iterator[np.ndarray]],
        exact: Callable[[np.ndarray, np.ndarray], np.ndarray],
        complete: Callable[[np.ndarray], bool],
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """For each query the places of the rows to be ordered, and what they are ordered by."""
        if self._waits_for_a_query:
            self._waits_for_a_query = False
            self._index_if_many()
        if not self.indexed:
            for query, places in zip(queries_QA, scan(queries_QA), strict=True):
                yield places, exact(query, places)
            return
        for query in queries_QA:
            found = self._proposed(query, exact, complete)
            if found is None:
                places = next(scan(query[None]))
                found = places, exact(query, places)
            yield found

    def _proposed(
        self,
        query: np.ndarray,
        exact: Callable[[np.ndarray, np.ndarray], np.ndarray],
        complete: Callable[[np.ndarray], bool],
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Places that the index proposes and those that it does not know; None if it cannot tell.

        What it does not know is asked first: a row that it takes in meanwhile is in both.
        """
        unlisted = None if self._index is None else self._index.unlisted()
        if self._index is None or unlisted is None or len(unlisted) > MOST_UNLISTED:
            return None
        count = PROPOSED
        while count <= MOST_PROPOSED:
            listed, is_all = self._index.search(query, count)
            if len(listed) < count and not is_all:  # codes of rows that are gone took their places
                count *= 8
                continue
            numbers = exact(query, listed)
            if len(listed) < count and len(listed) + len(unlisted) < min(CANDIDATES, self.live):
                return None
            if is_all or complete(numbers):
                rest = np.setdiff1d(unlisted, listed, assume_unique=True)
                if not len(rest):
                    return listed, numbers
                return np.append(listed, rest), np.append(numbers, exact(query, rest))
            count *= 8
        return None

    @staticmethod
    def _all_near(distances: np.ndarray) -> bool:
        """Whether the rows proposed go beyond the CANDIDATES nearest, so that no tie is cut."""
        return bool(smallest(distances, CANDIDATES) < distances.max())

    @staticmethod
    def _all_similar(cosines: np.ndarray) -> bool:
        """Whether the rows proposed go beyond those of the largest cosine."""
        return bool(cosines.min() < cosines.max())

    def _scan_nearest(self, queries_QA: np.ndarray) -> Iterator[np.ndarray]:
        """For each query the places of all rows that may be among the CANDIDATES nearest."""
        squares = self._square[: self._count]
        longest = float(squares.max(where=squares < np.inf, initial=0))
        for query, dots in self._scan(queries_QA):
            coarse = squares - 2 * dots
            reach = float(query @ query) ** 0.5 + longest**0.5
            threshold = smallest(coarse, CANDIDATES) + 2 * self._error(reach**2)
            yield self._alive(np.flatnonzero(coarse <= np.float64(threshold)))

    def _scan_similar(self, queries_QA: np.ndarray) -> Iterator[np.ndarray]:
        """For each query the places of all rows that may have the largest cosine."""
        norms = np.sqrt(np.maximum(self._square[: self._count], 1))
        for query, dots in self._scan(queries_QA):
            coarse = np.where(norms < np.inf, dots / norms, -np.inf)
            threshold = float(coarse.max()) - 2 * self._error(float(query @ query) ** 0.5)
            yield np.flatnonzero(coarse >= np.float64(threshold))

    def _distances(self, query: np.ndarray, places: np.ndarray) -> np.ndarray:
        return self._exact(places, lambda rows: _squares(rows - query))

    def _cosines(self, query: np.ndarray, places: np.ndarray) -> np.ndarray:
        square = float(query @ query)
        products = self._exact(places, lambda rows: rows @ query)
        squares = self._exact(places, _squares).astype(np.float64) * square
        return products / np.sqrt(np.maximum(squares, 1))

    def _alive(self, places: np.ndarray) -> np.ndarray:
        return places[self._owner[places] != NONE]

    def _exact(self, places: np.ndarray, of_rows: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """A whole number for each of these rows, from the rows as int64, a block at a time."""
        if not len(places):
            return np.zeros(0, np.int64)
        blocks = [places[at : at + EXACT_BLOCK] for at in range(0, len(places), EXACT_BLOCK)]
        return np.concatenate([of_rows(self._rows.take(one).astype(np.int64)) for one in blocks])

    def _scan(self, queries_QA: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Each query with its float32 dot products with the rows at all places."""
        step = max(1, SCAN_ENTRIES // max(1, self._count))
        for start in range(0, len(queries_QA), step):
            block = queries_QA[start : start + step]
            inexact = block.astype(np.float32)
            dots = np.empty((len(block), self._count), np.float32)
            for place, rows in self._rows.spans(self._count):
                np.matmul(inexact, rows.T, out=dots[:, place : place + len(rows)])
            yield from zip(block, dots, strict=True)

    def _error(self, magnitude: float) -> float:
        """How far float32 can be off a sum of A products that add up to at most `magnitude`.

        The textbook bound A u |x| |y| holds in whatever order the products are added; 16 units
        more cover the few operations around it.
        """
        return (self.width + 16) * _UNIT * 1.01 * magnitude


def _squares(rows: np.ndarray) -> np.ndarray:
    return np.einsum("na,na->n", rows, rows)


def smallest(values: np.ndarray, rank: int) -> float:
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
