"""The erase ledger: what must never come back, kept outside of the store and of its backups.

A line a fact, JSON: tenant, bank, log (chain value of the first entry: what a log is known by,
under whatever name it is restored), SHA-256 of the fact id, event id, version, time in ms.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from services.observability.logs import get_logger

log = get_logger("larimar.ledger")


@dataclass(frozen=True)
class Erasure:
    """A fact that was erased."""

    tenant: str
    bank: str
    log: str
    """Chain value of the first entry of the bank's log."""
    fact_id_sha256: str
    event_id: str
    version: int
    time_ms: int


def hashed(fact_id: str) -> str:
    """The fact id as the ledger and receipts name it: SHA-256, in hex."""
    return hashlib.sha256(fact_id.encode()).hexdigest()


class EraseLedger:
    """A file that is only ever added to; several processes of one machine may share it.

    Args:
        path: the file; None keeps nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def add(self, erasures: Iterable[Erasure]) -> None:
        """Adds lines, durably, but for those that it has."""
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            content = file.read()
            known = {(item.log, item.fact_id_sha256) for item in _parsed(content)}
            lines = [
                json.dumps(asdict(item)) + "\n"
                for item in erasures
                if (item.log, item.fact_id_sha256) not in known
            ]
            if lines:
                torn = content and not content.endswith(b"\n")  # a crash in the middle of a line
                file.write((b"\n" if torn else b"") + "".join(lines).encode())
                file.flush()
                os.fsync(file.fileno())

    def entries(self) -> list[Erasure]:
        """All lines; a torn one is left out, and said so in the log."""
        if self._path is None or not self._path.exists():
            return []
        return list(_parsed(self._path.read_bytes()))


def _parsed(content: bytes) -> Iterable[Erasure]:
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            yield Erasure(**json.loads(line))
        except (ValueError, TypeError):
            log.error("line %d of the erase ledger cannot be read and is left out", number)
