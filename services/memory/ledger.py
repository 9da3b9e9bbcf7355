"""The erase ledger: what must never come back, kept outside of the store and of its backups.

A line a fact, JSON: tenant, bank, log (chain value of the first entry: what a log is known by,
under whatever name it is restored), SHA-256 of the fact id, event id, version, time in ms. A log
that was re-encoded has a line of its own, which names the log that it was made of.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from services.observability.logs import get_logger

log = get_logger("larimar.ledger")


@dataclass(frozen=True)
class Erasure:
    """A fact that was erased; or, where `predecessor` is given, what a log was made of."""

    tenant: str
    bank: str
    log: str
    """Chain value of the first entry of the bank's log."""
    fact_id_sha256: str
    event_id: str
    version: int
    time_ms: int
    predecessor: str = ""
    """Chain value of the first entry of the log that was re-encoded into this one."""

    @property
    def key(self) -> tuple[str, ...]:
        """What no two lines have in common."""
        return (self.tenant, self.log, self.fact_id_sha256, self.predecessor)


def reencoded(tenant: str, bank: str, log: str, predecessor: str) -> Erasure:
    """The line that says what a log was made of."""
    return Erasure(tenant, bank, log, "", "", 0, time.time_ns() // 10**6, predecessor)


def lineage(entries: Iterable[Erasure], tenant: str, log: str) -> list[str]:
    """A log and all logs that it was made of, by the lines of the ledger."""
    links = [entry for entry in entries if entry.predecessor and entry.tenant == tenant]
    found = [log]
    for one in found:  # and those that this appends
        made_of = {link.predecessor for link in links if link.log == one}
        found += sorted(made_of - set(found))
    return found


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
            known = {item.key for item in _parsed(content)}
            new = {item.key: item for item in erasures if item.key not in known}
            lines = [_line(item) for item in new.values()]
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


def _line(item: Erasure) -> str:
    fields = asdict(item)
    if not item.predecessor:
        del fields["predecessor"]
    return json.dumps(fields) + "\n"


def _parsed(content: bytes) -> Iterable[Erasure]:
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            yield Erasure(**json.loads(line))
        except (ValueError, TypeError):
            log.error("line %d of the erase ledger cannot be read and is left out", number)
