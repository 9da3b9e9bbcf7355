"""The index of a large set of rows: candidates for a query's nearest rows, derived from the rows.

Codes of half a byte for each few numbers of a row (product quantisation), all of which a search
passes through in the processor's registers (faiss). It only proposes: who searches orders the
candidates by exact integers. It is trained and filled in a thread of its own, and until it serves,
and for the rows that it has not taken in yet, the caller scans rows as before. It is no part of a
digest or a checkpoint, and two processes may have trained it on different rows.
"""

from __future__ import annotations

import atexit
import contextlib
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np

from larimar.blocks import Blocks, grown

GROWN = 8
"""Trained anew when there are so many times more rows than it was trained on."""
TRAINED_ROWS = 1 << 15
"""Rows that it is trained on, in 0.6 s at 384 numbers a row."""
CODED_NUMBERS = 4
"""Numbers of a row that one code of half a byte stands for."""
CENTROIDS = 16
"""Values that such a code can have."""
TAKEN_ROWS = 256
"""Rows taken in at a time; fewer wait, and are scanned."""
MOST_TAKEN = 1024
"""Most rows taken in at a time: a search waits for 7 ms."""
MIN_STALE = 4096
"""Codes of rows that are gone which are not worth coding the others anew."""
THREADS = 1
"""OpenMP threads of a call into faiss: one alone has nobody to spin for."""
CODED_BYTES = 8
"""What a row takes in the index beside its codes: its place."""
END_S = 10.0
"""Longest wait of a process that ends for the threads that train."""
_DEAD, _WAITING, _TAKEN, _LISTED = range(4)


class Ending(Exception):
    """The process ends: a thread still in the index library by then could crash it."""


_ending = threading.Event()
_workers: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


@atexit.register
def _end() -> None:
    _ending.set()
    for worker in list(_workers):
        worker.join(END_S)


ONE_AT_A_TIME = threading.Lock()
"""Of all the indexes of a process one is trained or filled at a time: a core is left for reads."""


class _Codes:
    """One trained set of codes: which places it lists, and in which order."""

    def __init__(self, index: Any, trained_rows: int, status: np.ndarray) -> None:
        self.index = index
        self.trained_rows = trained_rows
        self.status = np.where(status == _DEAD, _DEAD, _WAITING).astype(np.uint8)
        self.unlisted = int((self.status != _DEAD).sum())
        self.stale = 0
        """Codes of rows that are gone; their place may have another row by now."""
        self._place = np.zeros(0, np.int64)

    def put(self, places: np.ndarray) -> None:
        self.status = _as_long(self.status, places)
        self.status[places] = _WAITING
        self.unlisted += len(places)

    def drop(self, places: np.ndarray) -> None:
        listed = int((self.status[places] == _LISTED).sum())
        self.stale += listed
        self.unlisted -= len(places) - listed
        self.status[places] = _DEAD

    def take(self) -> np.ndarray:
        """The next places to list."""
        places = np.flatnonzero(self.status == _WAITING)[:MOST_TAKEN]
        self.status[places] = _TAKEN
        return places

    def add(self, places: np.ndarray, vectors: np.ndarray) -> None:
        """Lists what was taken and has not been dropped since."""
        kept = self.status[places] == _TAKEN
        places = places[kept]
        if not len(places):  # faiss crashes when an empty index is given nothing
            return
        count = self.index.ntotal
        self._place = grown(self._place, count + len(places))
        self._place[count : count + len(places)] = places
        self.index.add(np.ascontiguousarray(vectors[kept]))
        self.status[places] = _LISTED
        self.unlisted -= len(places)

    def search(self, vectors: np.ndarray, count: int) -> tuple[np.ndarray, bool]:
        """About `count` places in order, and whether there are no more that it could find.

        More are asked for where some codes are stale; those may leave fewer than `count`.
        """
        asked = min(count if not self.stale else 2 * count, self.index.ntotal)
        if not asked:
            return np.zeros(0, np.int64), True
        _, found = self.index.search(vectors, asked)
        hits = found[0][found[0] >= 0]
        places = np.unique(self._place[hits])
        is_all = len(hits) < asked or asked == self.index.ntotal
        return places[self.status[places] == _LISTED], is_all


class Index:
    """Proposes nearest rows by Euclidean distance, or by cosine.

    Its owner calls it from one thread at a time; the thread that trains and fills it is its own,
    lives while there is something to do, and ends when the rows are gone. A row stays as it is
    from `put` to `drop`.

    Args:
        rows: where the rows lie, whole numbers in float32.
        places: of the rows that there are.
        by_cosine: whether rows and queries are brought to length 1 before they are compared.
    """

    def __init__(self, rows: Blocks, places: np.ndarray, by_cosine: bool) -> None:
        self._rows = weakref.ref(rows)
        self._by_cosine = by_cosine
        self._lock = threading.Lock()
        self._status = np.zeros(0, np.uint8)
        self._live = 0
        self._serving: _Codes | None = None
        self._filling: _Codes | None = None
        self._worker: threading.Thread | None = None
        self._failed = False
        self._width = rows.width
        self.put(places)

    @property
    def nbytes(self) -> int:
        held = [cells for cells in (self._serving, self._filling) if cells is not None]
        row = code_count(self._width) // 2 + CODED_BYTES
        return sum((self._live - one.unlisted + one.stale) * row for one in held)

    def put(self, places: np.ndarray) -> None:
        """Rows were put at these places, where there were none."""
        with self._lock:
            self._status = _as_long(self._status, places)
            self._status[places] = _WAITING
            self._live += len(places)
            for cells in (self._serving, self._filling):
                if cells is not None:
                    cells.put(places)
            if self._worker is None and not self._failed and self._to_do():
                self._worker = threading.Thread(target=self._work, name="index", daemon=True)
                _workers.add(self._worker)
                self._worker.start()

    def drop(self, places: np.ndarray) -> None:
        """The rows at these places are gone."""
        with self._lock:
            self._status[places] = _DEAD
            self._live -= len(places)
            for cells in (self._serving, self._filling):
                if cells is not None:
                    cells.drop(places)

    def unlisted(self) -> np.ndarray | None:
        """Places of the rows that `search` does not see; None when it sees none yet."""
        with self._lock:
            if self._serving is None:
                return None
            if not self._serving.unlisted:
                return np.zeros(0, np.int64)
            status = self._serving.status
            return np.flatnonzero((status == _WAITING) | (status == _TAKEN))

    def search(self, query: np.ndarray, count: int) -> tuple[np.ndarray, bool]:
        """Places of about the `count` nearest rows, in order of place; whether it found all.

        Cost: 0.5 ms at 262,144 rows of 384 numbers.
        """
        vectors = self._compared(query[None].astype(np.float32))
        with self._lock, one_thread():
            assert self._serving is not None
            return self._serving.search(_padded(vectors), count)

    def settle(self, timeout_s: float) -> bool:
        """Waits until the thread has nothing more to do; whether it came to that."""
        worker = self._worker
        if worker is not None:
            worker.join(timeout_s)
        return self._worker is None

    def _compared(self, rows: np.ndarray) -> np.ndarray:
        if not self._by_cosine:
            return rows
        lengths = np.sqrt(np.einsum("na,na->n", rows, rows, dtype=np.float64))
        return (rows / np.maximum(lengths, 1)[:, None]).astype(np.float32)

    def _to_do(self) -> str:
        """What comes next: "train", "fill", "list" or nothing. The lock is held."""
        if self._filling is not None:
            return "fill"
        serving = self._serving
        if serving is None or self._live >= GROWN * serving.trained_rows:
            return "train"
        if serving.stale > max(MIN_STALE, self._live):
            return "train"
        return "list" if serving.unlisted >= TAKEN_ROWS else ""

    def _work(self) -> None:
        try:
            while True:
                with self._lock:
                    rows, to_do = self._rows(), self._to_do()
                    if rows is None or not to_do or _ending.is_set():
                        self._worker = None
                        return
                with ONE_AT_A_TIME:
                    if to_do == "train":
                        self._train(rows)
                    else:
                        self._list(rows)
                del rows
        except Ending:
            return
        except BaseException:
            with self._lock:
                self._worker, self._failed, self._filling = None, True, None
            raise

    def _train(self, rows: Blocks) -> None:
        with self._lock:
            places, live = np.flatnonzero(self._status), self._live
        if len(places) > TRAINED_ROWS:
            rng = np.random.default_rng(live)
            places = np.sort(rng.choice(places, TRAINED_ROWS, replace=False))
        index = trained_index(_padded(self._compared(rows.take(places))))
        with self._lock:
            self._filling = _Codes(index, live, self._status)

    def _list(self, rows: Blocks) -> None:
        """Lists some rows; what was being filled serves once few rows wait."""
        with self._lock:
            codes = self._filling or self._serving
            assert codes is not None
            places = codes.take()
            vectors = _padded(self._compared(rows.take(places)))
        with self._lock, one_thread():
            codes.add(places, vectors)
            if codes is self._filling and codes.unlisted < TAKEN_ROWS:
                self._serving, self._filling = codes, None


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Runs what is in the block on THREADS OpenMP threads.

    The setting is the calling thread's, and torch's as well: left behind, it would make the
    encoder in the same thread slower, and change the last bits of what it computes.
    """
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(THREADS)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def code_count(width: int) -> int:
    """Codes of a row: an even number, as they lie two to a byte."""
    return 2 * -(-width // (2 * CODED_NUMBERS))


def trained_index(vectors: np.ndarray) -> Any:
    """An empty index whose codes come from these vectors (n, width), width as `_padded` gives it.

    Raises:
        Ending: the process ends.
    """
    import faiss

    if _ending.is_set():
        raise Ending
    width = vectors.shape[1]
    index = faiss.IndexPQFastScan(width, code_count(width), 4)
    index.pq.cp.min_points_per_centroid = 1  # it warns of small samples otherwise
    if len(vectors) < CENTROIDS:  # rows may go while a worker waits, and fewer do not train
        vectors = np.resize(vectors, (CENTROIDS, width))
    with one_thread():
        index.train(vectors)
    return index


def _padded(vectors: np.ndarray) -> np.ndarray:
    """The vectors with zeros at their end, so that each code stands for as many numbers."""
    width = vectors.shape[1]
    missing = code_count(width) * CODED_NUMBERS - width
    return np.ascontiguousarray(np.pad(vectors, ((0, 0), (0, missing))) if missing else vectors)


def _as_long(status: np.ndarray, places: np.ndarray) -> np.ndarray:
    return grown(status, int(places.max()) + 1 if len(places) else 0)
