"""Many byte strings looked for at once, in one pass over what is searched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

WORD_BYTES = 8
"""First bytes of a needle that are looked up at every offset."""
TABLE_BITS = 20
"""Of a word's hash: a table of a megabyte stays in a processor's cache, and thousands of needles
fill less than a hundredth of it."""
_SPREAD = np.uint64(0x9E3779B97F4A7C15)


class Needles:
    """Byte strings to look for. Cost: about 100 MB/s, however many (docs/log.md, entry 29)."""

    def __init__(self, needles: Sequence[bytes]) -> None:
        self.longest = max((len(needle) for needle in needles), default=0)
        self._short = [needle for needle in needles if len(needle) < WORD_BYTES]
        self._by_word: dict[int, dict[int, set[bytes]]] = {}
        for needle in needles:
            if len(needle) >= WORD_BYTES:
                word = int.from_bytes(needle[:WORD_BYTES], "little")
                self._by_word.setdefault(word, {}).setdefault(len(needle), set()).add(needle)
        self._table = np.zeros(2**TABLE_BITS, np.bool_)
        self._table[_hashed(np.array(list(self._by_word), np.uint64))] = True

    def places(self, text: bytes) -> Iterator[tuple[int, bytes]]:
        """Where which needle is found, in no order; of those below WORD_BYTES all places too."""
        for needle in self._short:
            at = text.find(needle)
            while at >= 0:
                yield at, needle
                at = text.find(needle, at + 1)
        if not self._by_word:
            return
        for shift in range(min(WORD_BYTES, len(text) - WORD_BYTES + 1)):
            words = np.frombuffer(text, "<u8", (len(text) - shift) // WORD_BYTES, shift)
            hits = np.flatnonzero(self._table[_hashed(words)])
            for hit in hits.tolist():
                at = hit * WORD_BYTES + shift
                for length, needles in self._by_word.get(int(words[hit]), {}).items():
                    found = text[at : at + length]
                    if found in needles:
                        yield at, found

    def found_in(self, text: bytes) -> set[bytes]:
        """The needles that are in a text."""
        return {needle for _, needle in self.places(text)}

    def hits(self, values: Sequence[bytes]) -> set[int]:
        """Which of these values hold a needle."""
        ends = np.cumsum([len(value) for value in values])
        found: set[int] = set()
        for at, needle in self.places(b"".join(values)):
            place = int(np.searchsorted(ends, at, "right"))
            if at + len(needle) <= ends[place]:
                found.add(place)
        return found


def _hashed(words: np.ndarray) -> np.ndarray:
    return (words * _SPREAD) >> np.uint64(64 - TABLE_BITS)
