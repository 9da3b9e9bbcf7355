"""Searching for what an erasure must not leave behind: texts and vectors, as bytes."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from larimar.memory import Payload
from services.needles import Needles

MIN_NEEDLE_BYTES = 12
"""Shorter texts are searched for within the payload's header only: they occur by chance."""
ROW_BYTES = 64
"""Bytes of a vector that are searched for: 16 whole numbers do not occur by chance."""
CHUNK_BYTES = 2**20
"""Bytes searched at once: about 10 ms, after which other threads get their turn."""


def needles_of(payloads: Iterable[bytes]) -> list[bytes]:
    """What to search for: header, texts, and the first numbers of each vector of these payloads.

    A vector of zeros, which a passage has for scope, is left out.
    """
    found: dict[bytes, None] = {}
    for raw in payloads:
        payload = Payload.from_bytes(raw)
        (size,) = struct.unpack_from("<I", raw, 4)
        found[raw[8 : 8 + size]] = None
        for text in (payload.prompt, payload.answer, *payload.rephrasings):
            for needle in (text.encode(), json.dumps(text, ensure_ascii=False)[1:-1].encode()):
                if len(needle) >= MIN_NEEDLE_BYTES:
                    found[needle] = None
        for row in (*payload.addresses, payload.value, *payload.scope):
            if row.any():
                for kind in ("<i2", "<i4"):  # as its payload and as a checkpoint may hold it
                    found[row.astype(kind).tobytes()[:ROW_BYTES]] = None
    return list(found)


def without_shared(needles: Sequence[bytes], payloads: Iterable[bytes]) -> list[bytes]:
    """The needles that none of these payloads, which are of other facts, holds rightfully."""
    wanted = Needles(needles)
    shared: set[bytes] = set()
    for raw in payloads:
        shared |= wanted.found_in(raw)
        shared.update(needles_of([raw]))
    return [needle for needle in needles if needle not in shared]


def search_files(paths: Sequence[str], needles: Sequence[bytes]) -> tuple[int, int, int]:
    """Files read, bytes read, and in how many places of (file, needle) a needle was found.

    A file that vanishes meanwhile counts as read: the store replaces its files.
    Cost: as of Needles.
    """
    wanted = Needles(needles)
    overlap = max(wanted.longest, 1) - 1
    files = size = found = 0
    for path in paths:
        files += 1
        here: set[bytes] = set()
        try:
            with Path(path).open("rb") as file:
                kept = b""
                while chunk := file.read(CHUNK_BYTES):
                    size += len(chunk)
                    text = kept + chunk
                    here |= wanted.found_in(text)
                    kept = text[-overlap:] if overlap else b""
                    time.sleep(0)
        except FileNotFoundError:
            pass
        found += len(here)
    return files, size, found
