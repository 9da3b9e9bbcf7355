"""The fact table of a state: fact id to version and payload digest, a slot for each live fact."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from larimar.blocks import grown
from larimar.payload import MAX_ID_BYTES

FACT_BYTES = 300
"""What one fact takes in the table, roughly: its id, its places in a dictionary and a list, and 44
bytes of arrays."""
HASHED_FACTS = 4096
"""Facts whose records are joined and hashed at a time."""
_SIZES = [size.to_bytes(4, "little") for size in range(MAX_ID_BYTES + 1)]


class Facts(Mapping[str, tuple[int, bytes]]):
    """Fact id -> (version of its live WRITE, SHA-256 of its payload), for the live facts.

    A slot is a small whole number that is the fact's while it lives; the slots of removed facts
    are given out again.
    """

    def __init__(self) -> None:
        self.slots: dict[str, int] = {}
        self.ids: list[str] = []
        """Fact id of each slot; empty where no fact lives."""
        self.rows = np.zeros(0, np.int32)
        """Reference rows of the fact in each slot, rephrasings counted."""
        self._versions = np.zeros(0, np.int64)
        self._sha256 = np.zeros((0, 32), np.uint8)
        self._free: list[int] = []

    def __getitem__(self, fact_id: str) -> tuple[int, bytes]:
        slot = self.slots[fact_id]
        return int(self._versions[slot]), self._sha256[slot].tobytes()

    def __contains__(self, fact_id: object) -> bool:
        return fact_id in self.slots

    def __iter__(self) -> Iterator[str]:
        return iter(self.slots)

    def __len__(self) -> int:
        return len(self.slots)

    def add(
        self, ids: Sequence[str], versions: np.ndarray, sha256: np.ndarray, rows: np.ndarray
    ) -> np.ndarray:
        """Gives each new fact a slot; its slots, in order. sha256 is (n, 32), of single bytes."""
        reused = [self._free.pop() for _ in range(min(len(ids), len(self._free)))]
        start, stop = len(self.ids), len(self.ids) + len(ids) - len(reused)
        slots = np.array([*reused, *range(start, stop)], np.int64)
        for fact_id, slot in zip(ids, reused, strict=False):
            self.ids[slot] = fact_id
        self.ids.extend(ids[len(reused) :])
        self.slots.update(zip(ids, slots.tolist(), strict=True))
        for name, new in (("_versions", versions), ("_sha256", sha256), ("rows", rows)):
            array = grown(getattr(self, name), stop)
            array[slots] = new
            setattr(self, name, array)
        return slots

    def remove(self, ids: Sequence[str]) -> np.ndarray:
        """Removes these live facts; the slots that they had."""
        slots = [self.slots.pop(fact_id) for fact_id in ids]
        for slot in slots:
            self.ids[slot] = ""
        self._free.extend(slots)
        return np.array(slots, np.int64)

    def slots_of(self, ids: Sequence[str]) -> np.ndarray:
        """The slots of these live facts, in order."""
        return np.fromiter(map(self.slots.__getitem__, ids), np.int64, len(ids))

    def columns(self, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Versions (n), payload SHA-256 (n, 32) and counts of rows (n) of these slots."""
        return self._versions[slots], self._sha256[slots], self.rows[slots]

    def hash_into(self, hasher: hashlib._Hash) -> None:
        """Feeds each fact, in order of fact id: length of the id, the id, the payload SHA-256."""
        ids = sorted(self.slots)
        for at in range(0, len(ids), HASHED_FACTS):
            some = ids[at : at + HASHED_FACTS]
            hashes = self._sha256[self.slots_of(some)].tobytes()
            names = [fact_id.encode() for fact_id in some]
            hasher.update(
                b"".join(
                    [
                        b"%b%b%b" % (_SIZES[len(name)], name, hashes[at : at + 32])
                        for name, at in zip(names, range(0, len(hashes), 32), strict=True)
                    ]
                )
            )
