"""Many needles in one pass, against looking for each."""

from __future__ import annotations

import numpy as np
import pytest

from services.memory import scan
from services.memory.scan import search_files
from services.needles import Needles


@pytest.mark.parametrize("seed", range(20))
def test_one_pass_finds_what_looking_for_each_finds(seed: int, tmp_path, monkeypatch) -> None:
    """Of few letters, so that beginnings are shared and found by chance; over any border."""
    random = np.random.default_rng(seed)
    text = random.integers(0, 3, 600, dtype=np.uint8).tobytes()
    needles = {b"\0\1\2", b"\2", bytes(8), bytes(9), text[-8:], text[:9], text}
    for _ in range(60):
        start, size = int(random.integers(0, 590)), int(random.integers(1, 40))
        needles.add(text[start : start + size])
        needles.add(random.integers(0, 3, size, dtype=np.uint8).tobytes())
    wanted = [needle for needle in needles if needle in text]
    assert 0 < len(wanted) < len(needles)
    finder = Needles(list(needles))
    assert finder.found_in(text) == set(wanted)
    assert all(text[at : at + len(needle)] == needle for at, needle in finder.places(text))
    values = [text[start : start + 50] for start in range(0, 600, 50)]
    few = Needles(rare := [needle for needle in needles if len(needle) > 7])
    assert few.hits(values) == {
        place for place, value in enumerate(values) if any(one in value for one in rare)
    }
    monkeypatch.setattr(scan, "CHUNK_BYTES", 37)
    (tmp_path / "file").write_bytes(text)
    assert search_files([str(tmp_path / "file")], list(needles)) == (1, 600, len(wanted))


def test_nothing_is_found_of_nothing_and_in_nothing() -> None:
    assert Needles([]).found_in(b"some text") == set() and Needles([]).longest == 0
    for needles in ([b"x"], [b"a longer one"]):
        assert Needles(needles).hits([]) == Needles(needles).hits([b"", b"a longer"]) == set()
    assert Needles([b"x", b"a longer one"]).hits([b"", b"a longer one", b"", b"x"]) == {1, 3}


def test_thousands_of_needles_that_begin_alike_are_no_matter() -> None:
    """Each looked for by itself it would take minutes."""
    needles = [b'{"fact_id": "%d"}' % n for n in range(20_000)]
    text = b"".join(b'{"fact_id": "%d"}, ' % n for n in range(0, 60_000, 2))
    assert Needles(needles).found_in(text) == set(needles[::2])
