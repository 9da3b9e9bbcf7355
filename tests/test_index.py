"""The index: it proposes what a scan finds, while rows come, go and are replaced under it."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from larimar import blocks, index, rows
from larimar.index import CENTROIDS, trained_index
from larimar.memory import BankState
from larimar.rows import CANDIDATES, Rows
from tests.banks import config_of, folded, frozen, log_of, payload_of
from tests.golden import ROOT

WIDTH = 16


class ByScan:
    """The same rows, searched by the obvious loop in Python integers."""

    def __init__(self) -> None:
        self.rows_of: dict[int, np.ndarray] = {}

    def nearest(self, query: np.ndarray, ids: list[str]) -> list[tuple[int, int]]:
        found = [
            (int(((row.astype(int) - query) ** 2).sum()), ids[slot], slot)
            for slot, block in self.rows_of.items()
            for row in block
        ]
        return [(distance, slot) for distance, _, slot in sorted(found)[:CANDIDATES]]

    def most_similar(self, query: np.ndarray, ids: list[str]) -> tuple[float, int]:
        found = []
        for slot, block in self.rows_of.items():
            for row in block.astype(int):
                lengths = float(row @ row) * float(query @ query)
                found.append((-(row @ query) / np.sqrt(max(lengths, 1)), ids[slot], slot))
        cosine, _, slot = min(found)
        return -cosine, slot


def rows_with(facts: int, by_cosine: bool, rng, spread: int = 1000) -> tuple[Rows, ByScan]:
    held, twin = Rows(WIDTH, by_cosine), ByScan()
    put(held, twin, range(facts), rng, spread)
    return held, twin


def put(held: Rows, twin: ByScan, slots, rng, spread: int = 1000) -> None:
    counts = rng.integers(1, 4, len(slots))
    new = rng.integers(-spread, spread + 1, (int(counts.sum()), WIDTH))
    held.put(np.array(slots), counts, new)
    for slot, block in zip(slots, np.split(new, np.cumsum(counts)[:-1]), strict=True):
        twin.rows_of[slot] = block


def drop(held: Rows, twin: ByScan, slots) -> None:
    held.drop(np.array(slots, np.int64))
    if held.is_sparse:
        held.compact()
    for slot in slots:
        del twin.rows_of[slot]


def training_held_up(monkeypatch) -> tuple[threading.Event, threading.Event]:
    """Events: an index is about to be trained; it may go on."""
    started, go_on = threading.Event(), threading.Event()
    train = index.trained_index

    def slowly(*arguments):
        started.set()
        assert go_on.wait(60)
        return train(*arguments)

    monkeypatch.setattr(index, "trained_index", slowly)
    return started, go_on


@pytest.fixture
def small(monkeypatch):
    """An index from 64 rows on, that takes rows in by fours and proposes all of them."""
    monkeypatch.setattr(rows, "INDEX_ROWS", 64)
    monkeypatch.setattr(index, "TAKEN_ROWS", 4)
    monkeypatch.setattr(index, "MIN_STALE", 30)
    monkeypatch.setattr(rows, "PROPOSED", 1024)
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 32)
    monkeypatch.setattr(rows, "MIN_DEAD", 40)


CHANGES = st.lists(
    st.tuples(st.sampled_from(["put", "drop", "replace", "settle"]), st.integers(0, 2**32 - 1)),
    min_size=1,
    max_size=12,
)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("by_cosine", [False, True])
@settings(max_examples=25, deadline=None)
@given(changes=CHANGES, seed=st.integers(0, 2**32 - 1), spread=st.sampled_from([1, 1000]))
def test_what_an_index_of_all_rows_proposes_is_what_a_scan_finds(by_cosine, changes, seed, spread):
    """Whatever moment it is in: before training, while rows are taken in, and settled."""
    rng = np.random.default_rng(seed)
    held, twin = rows_with(120, by_cosine, rng, spread)
    ids = [f"f{slot * 7919 % 1000:03}" for slot in range(1000)]
    size = 120
    for what, choice in changes:
        chosen = np.random.default_rng(choice)
        some = chosen.permutation(sorted(twin.rows_of))[: chosen.integers(1, 60)].tolist()
        if what == "settle":
            assert held.settle(60)
        if what in ("drop", "replace") and len(twin.rows_of) > len(some):
            drop(held, twin, some)
            if what == "replace":
                put(held, twin, some, rng, spread)
        if what == "put":
            put(held, twin, range(size, size + 40), rng, spread)
            size += 40
        kept = next(iter(twin.rows_of.values()))[0].astype(np.int64)
        for query in (kept, kept + rng.integers(-2, 3, WIDTH)):
            if by_cosine:
                ((cosine, slot),) = held.most_similar(query[None], ids)
                assert slot in held.all_similar(query[None], cosine)[0]
                assert held.all_similar(query[None], cosine + 1e-9) == [[]]
                wanted, wanted_slot = twin.most_similar(query, ids)
                assert (cosine, slot) == (pytest.approx(wanted, abs=1e-12), wanted_slot)
            else:
                assert held.nearest(query[None], ids)[0] == twin.nearest(query, ids)
        for slot, block in twin.rows_of.items():
            np.testing.assert_array_equal(held.rows_of(np.array([slot])), block)
    assert held.live == sum(map(len, twin.rows_of.values()))
    assert held.settle(60) and (held.indexed or held.live < 64 or not held._index)


@pytest.mark.usefixtures("small")
def test_rows_that_change_while_the_index_is_trained_are_not_lost(monkeypatch):
    started, go_on = training_held_up(monkeypatch)
    rng = np.random.default_rng(0)
    held, twin = rows_with(200, False, rng)
    ids = [f"f{slot:03}" for slot in range(400)]
    assert started.wait(60) and not held.indexed
    drop(held, twin, range(50))
    put(held, twin, range(10), rng)
    put(held, twin, range(200, 260), rng)
    queries = np.stack([twin.rows_of[slot][0] for slot in (0, 9, 60, 259)]).astype(np.int64)

    def answers() -> list:
        return [held.nearest(query[None], ids)[0] for query in queries]

    wanted = [twin.nearest(query, ids) for query in queries]
    assert answers() == wanted
    go_on.set()
    assert held.settle(60) and held.indexed
    monkeypatch.setattr(Rows, "_scan", None)
    assert answers() == wanted


@pytest.mark.usefixtures("small")
def test_an_index_may_wait_for_the_first_query(monkeypatch):
    rng = np.random.default_rng(2)
    held, twin = Rows(WIDTH, index_when_asked=True), ByScan()
    put(held, twin, range(200), rng)
    assert held._index is None and held.settle(60) and not held.indexed
    query, ids = twin.rows_of[7][:1].astype(np.int64), [f"f{slot:03}" for slot in range(300)]
    wanted = twin.nearest(query[0], ids)
    assert held.nearest(query, ids) == [wanted]
    assert held.settle(60) and held.indexed
    put(held, twin, range(200, 300), rng)
    assert held.settle(60)
    monkeypatch.setattr(Rows, "_scan", None)
    assert held.nearest(query, ids) == [twin.nearest(query[0], ids)]


@pytest.mark.usefixtures("small")
def test_an_index_is_trained_anew_when_the_rows_have_outgrown_it(monkeypatch):
    trained = []
    train = index.trained_index
    monkeypatch.setattr(
        index, "trained_index", lambda rows: trained.append(len(rows)) or train(rows)
    )
    rng = np.random.default_rng(1)
    held, twin = rows_with(64, False, rng)
    assert held.settle(60) and len(trained) == 1
    first = held.live
    put(held, twin, range(64, 64 + 8 * first), rng)
    assert held.settle(60) and len(trained) == 2
    before = held.nbytes
    drop(held, twin, list(range(10, 64 + 8 * first)))
    assert held._index is None and held.nbytes < before / 4


@pytest.mark.usefixtures("small")
def test_more_equal_rows_than_are_proposed_go_by_fact_id():
    """The index is asked for more, and past that every row is scanned."""
    for copies in (600, 3000):
        held = Rows(WIDTH)
        row = np.full(WIDTH, 5)
        others = np.random.default_rng(2).integers(-1000, 1000, (100, WIDTH))
        held.put(
            np.arange(copies + 100),
            np.ones(copies + 100, int),
            np.concatenate([np.tile(row, (copies, 1)), others]),
        )
        assert held.settle(60) and held.indexed
        ids = [f"f{copies + 100 - slot:05}" for slot in range(copies + 100)]
        near = held.nearest(row[None].astype(np.int64), ids)[0]
        assert near == [(0, copies - 1 - n) for n in range(CANDIDATES)]
        similar = Rows(WIDTH, by_cosine=True)
        similar.put(np.arange(copies), np.ones(copies, int), np.tile(row, (copies, 1)))
        assert similar.settle(60) and similar.indexed
        assert similar.most_similar(row[None].astype(np.int64), ids) == [
            (pytest.approx(1), copies - 1)
        ]


def test_recall_of_rephrasings_and_of_the_rows_themselves():
    """At the real sizes, on rows without any structure.

    Half the rows come after the training. Queries at cosine 0.8 to their row.
    """
    rng = np.random.default_rng(3)
    count, width, asked = 36_000, 384, 300
    vectors = rng.standard_normal((count, width))
    vectors *= 2**16 / np.linalg.norm(vectors, axis=1, keepdims=True)
    fixed = np.rint(vectors).astype(np.int32)
    for by_cosine in (False, True):
        held = Rows(width, by_cosine)
        for low, high in ((0, count // 2), (count // 2, count)):
            held.put(np.arange(low, high), np.ones(high - low, int), fixed[low:high])
            assert held.settle(120) and held.indexed
        ids = [""] * count
        right = rng.choice(count, asked, replace=False)
        noise = rng.standard_normal((asked, width))
        noise *= 2**16 / np.linalg.norm(noise, axis=1, keepdims=True)
        near = np.rint(0.8 * vectors[right] + 0.6 * noise).astype(np.int64)
        found = []
        for queries in (near, fixed[right].astype(np.int64)):
            if by_cosine:
                slots = [slot for _, slot in held.most_similar(queries, ids)]
            else:
                slots = [one[0][1] for one in held.nearest(queries, ids)]
            index_of_rows, held._index = held._index, None
            if by_cosine:
                scanned = [slot for _, slot in held.most_similar(queries, ids)]
            else:
                scanned = [one[0][1] for one in held.nearest(queries, ids)]
            held._index = index_of_rows
            found.append(np.mean(np.equal(slots, scanned)))
        assert found[0] >= 0.99 and found[1] == 1.0


@pytest.mark.usefixtures("small")
def test_a_state_is_the_same_with_and_without_an_index(monkeypatch):
    config = config_of("slots")
    steps = [(f"f{n}", payload_of(config, f"f{n}", n)) for n in range(90)]
    entries = log_of([*steps, ("f3", None), ("f4", steps[4][1])])
    bank = folded(config, entries, [20, 91])
    for part in (bank.addresses, bank.scope):
        assert part is not None and part.settle(60) and part.indexed
    with_index = (bank.digest(), bank.folded_sha256(), frozen(bank)[:4])
    monkeypatch.setattr(rows, "INDEX_ROWS", 1 << 12)
    without = folded(config, entries, [20, 91])
    assert with_index == (without.digest(), without.folded_sha256(), frozen(without)[:4])
    monkeypatch.setattr(rows, "INDEX_ROWS", 64)
    restored = BankState.from_tensors(*bank.to_tensors())
    assert restored.folded_sha256() == without.folded_sha256()


def test_an_index_that_cannot_be_trained_leaves_the_scan(monkeypatch, small):
    def fails(*_):
        raise MemoryError

    monkeypatch.setattr(index, "trained_index", fails)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    held, twin = rows_with(100, False, np.random.default_rng(4))
    ids = [f"f{slot:03}" for slot in range(200)]
    assert held.settle(60) and not held.indexed
    put(held, twin, range(100, 110), np.random.default_rng(5))
    query = twin.rows_of[3][0].astype(np.int64)
    assert held.nearest(query[None], ids)[0] == twin.nearest(query, ids)


def test_a_thread_that_indexes_ends_with_its_rows(monkeypatch, small):
    train = index.trained_index
    started, go_on = threading.Event(), threading.Event()

    def slowly(*arguments):
        started.set()
        assert go_on.wait(60)
        return train(*arguments)

    monkeypatch.setattr(index, "trained_index", slowly)
    held, _ = rows_with(100, False, np.random.default_rng(6))
    assert held._index is not None
    worker = held._index._worker
    assert started.wait(60) and worker is not None
    del held
    go_on.set()
    worker.join(60)
    assert not worker.is_alive()


@pytest.mark.usefixtures("small")
def test_codes_of_rows_that_are_gone_are_left_behind():
    """Replaced rows stay in the index as stale codes until there are too many."""
    rng = np.random.default_rng(8)
    held, twin = rows_with(100, False, rng)
    assert held.settle(60) and held._index is not None
    first = held._index._serving
    for _ in range(20):
        drop(held, twin, range(50))
        put(held, twin, range(50), rng)
        assert held.settle(60)
    serving = held._index._serving
    assert serving is not None and serving is not first
    assert serving.stale <= max(30, held.live)
    ids = [f"f{slot:03}" for slot in range(100)]
    for slot in (3, 77):
        query = twin.rows_of[slot][0].astype(np.int64)
        assert held.nearest(query[None], ids)[0] == twin.nearest(query, ids)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("by_cosine", [False, True])
def test_codes_of_rows_that_are_gone_do_not_crowd_out_live_ones(monkeypatch, by_cosine):
    for name, value in (("MIN_STALE", 10_000), ("TAKEN_ROWS", 1_000)):
        monkeypatch.setattr(index, name, value)
    monkeypatch.setattr(rows, "MIN_DEAD", 10_000)
    monkeypatch.setattr(rows, "PROPOSED", 4 * CANDIDATES)
    rng = np.random.default_rng(0)
    held, twin = Rows(WIDTH, by_cosine), ByScan()
    gone, near, far = 8 * CANDIDATES + 50, CANDIDATES + 10, 2 * CANDIDATES
    query = np.where(np.arange(WIDTH) % 2, 700, 500)

    def put_around(first: int, count: int, distance: int) -> None:
        new = query + distance * np.where(np.arange(WIDTH) < 5, -1, 0)
        new = new + rng.integers(-20, 21, (count, WIDTH))
        held.put(np.arange(first, first + count), np.ones(count, np.int32), new)
        twin.rows_of.update((first + n, row[None]) for n, row in enumerate(new))

    put_around(0, gone, 0)
    put_around(gone, near, 300)
    assert held._index is not None and held._index.settle(60)
    put_around(gone + near, far, 900)  # which the index has not taken in
    drop(held, twin, range(gone))
    ids = [f"{slot:05}" for slot in range(gone + near + far)]
    if by_cosine:
        (found,) = held.most_similar(query[None].astype(np.int64), ids)
        assert found[1] == twin.most_similar(query, ids)[1]
    else:
        assert held.nearest(query[None].astype(np.int64), ids) == [twin.nearest(query, ids)]


def test_a_process_ends_while_rows_are_taken_in():
    program = (
        "import numpy as np\n"
        "from larimar.rows import Rows\n"
        "rows = Rows(384)\n"
        "block = np.arange(384 * 60000).reshape(60000, 384) % 999\n"
        "rows.put(np.arange(60000), np.ones(60000, int), block)\n"
        "assert not rows.indexed and rows._index._worker.is_alive()\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=180, cwd=ROOT)


def test_small_banks_load_no_index_library():
    program = (
        "import sys, larimar, larimar.state, larimar.rows, numpy as np\n"
        "rows = larimar.rows.Rows(4)\n"
        "rows.put(np.arange(1000), np.ones(1000, int), np.ones((1000, 4), int))\n"
        "assert rows.nearest(np.ones((1, 4), int), ['f'] * 1000)\n"
        "assert 'faiss' not in sys.modules and 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=180, cwd=ROOT)


def test_a_search_leaves_the_threads_of_torch_alone(small) -> None:
    import torch

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        held, twin = rows_with(100, False, np.random.default_rng(9))
        assert held.settle(60) and held.indexed
        held.nearest(twin.rows_of[3][0].astype(np.int64)[None], [f"f{n:03}" for n in range(100)])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("count", [0, 1, CENTROIDS - 1, CENTROIDS])
def test_an_index_is_trained_on_the_few_rows_that_are_left(count):
    vectors = np.random.default_rng(0).standard_normal((count, WIDTH)).astype(np.float32)
    index = trained_index(vectors)
    assert index.is_trained and index.ntotal == 0


@pytest.mark.usefixtures("small")
def test_rows_may_all_be_gone_when_the_index_is_trained(monkeypatch):
    """The index library crashes its process when an empty index is given no rows."""
    started, go_on = training_held_up(monkeypatch)
    monkeypatch.setattr(rows, "MIN_DEAD", 10_000)
    rng = np.random.default_rng(0)
    held, twin = rows_with(200, False, rng)
    ids = [f"f{slot:03}" for slot in range(200)]
    left = held._index
    assert started.wait(60)
    drop(held, twin, range(200))
    go_on.set()
    assert left.settle(60) and not left._failed
    put(held, twin, range(100), rng)
    assert held.settle(60) and held.indexed
    query = twin.rows_of[7][0].astype(np.int64)
    assert held.nearest(query[None], ids)[0] == twin.nearest(query, ids)


def test_codes_list_nothing_of_what_was_dropped_while_it_was_taken():
    vectors = np.random.default_rng(0).standard_normal((40, WIDTH)).astype(np.float32)
    codes = index._Codes(trained_index(vectors), 40, np.ones(40, np.uint8))
    taken = codes.take()
    codes.drop(taken)
    codes.add(taken, vectors)
    places, is_all = codes.search(vectors[:1], 10)
    assert not len(places) and is_all and codes.unlisted == 0
    codes.put(taken[:3])
    codes.add(codes.take(), vectors[:3])
    places, is_all = codes.search(vectors[:1], 10)
    assert places.tolist() == [0, 1, 2] and is_all
