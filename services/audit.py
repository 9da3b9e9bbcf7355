"""The audit log: who changed what, by ids alone. A line of JSON a change, in files of a folder.

A line has `time` (RFC 3339, UTC), `tenant`, `key` (id of the API key; "inbox" for what the inbox
brought, "operator" for `larimar key`, empty where no keys are asked for), `action`, `result` (OK,
DUPLICATE or an error's reason), and what the action is about: bank, fact_id, event_id, version ...
It holds no text of a fact, so that an erasure leaves nothing in it.

Each process writes to a file of its own, so that none waits for another; who reads merges them. A
file whose process has ended is taken over by the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import heapq
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from larimar.errors import Cancelled, LarimarError

log = logging.getLogger("larimar.audit")

FOLDER = "audit"
"""In the data directory, where the settings name no other."""
FILE_BYTES = 64 * 2**20
"""Size past which a process begins another file: what is removed at once where it is too much."""
OPERATOR = "operator"
"""Who acts on the store itself, without a key."""
OK, DUPLICATE = "OK", "DUPLICATE"


class AuditTrail:
    """Where a process writes its lines; the file is made with the first. Threads may share one.

    Args:
        folder: None keeps nothing.
        most_bytes: size of the folder past which its oldest files are removed.
        file_bytes: size past which another file is begun.
    """

    def __init__(
        self, folder: Path | None, most_bytes: int = 2**30, file_bytes: int = FILE_BYTES
    ) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._file_bytes = file_bytes
        self._file: BinaryIO | None = None
        self._lock = threading.Lock()
        self._failing = False

    def add(
        self, tenant: str, key: str, entries: Iterable[dict[str, Any]], durable: bool = False
    ) -> None:
        """Adds a line for each entry, in one write.

        What was done stays done where the file cannot be written: that is said in the log, once
        until it can.

        Args:
            durable: whether the lines are on the disk when this returns; without, they survive the
                death of any process, and the machine's within half a minute or so.
        """
        if self._folder is None:
            return
        try:
            with self._lock:  # the time too, so that a file is in its order
                head = {"time": stamp(time.time()), "tenant": tenant, "key": key}
                lines = "".join(json.dumps({**head, **entry}) + "\n" for entry in entries).encode()
                file = self._file_for(len(lines))
                # What a write that failed has left of a line must not take the next with it.
                whole = b"\n" + lines if self._failing else lines
                if file.write(whole) < len(whole):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                flushed = os.dup(file.fileno()) if durable else None
            if flushed is not None:  # not under the lock: others write meanwhile
                try:
                    os.fsync(flushed)
                finally:
                    os.close(flushed)
            self._failing = False
        except OSError as error:
            if not self._failing:
                log.error("the audit log cannot be written: %s", error.strerror)
            self._failing = True

    def close(self) -> None:
        """Ends the file."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _file_for(self, size: int) -> BinaryIO:
        """The file that takes so many bytes more: the one that is open, or another."""
        if self._file is not None:
            held = os.fstat(self._file.fileno())
            if held.st_nlink and held.st_size + size <= self._file_bytes:
                return self._file  # unless another process has removed it, as the oldest
        assert self._folder is not None
        self._end()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = self._taken_over(size) or self._begun()
        remove_oldest(self._folder, self._most_bytes)
        return self._file

    def _taken_over(self, size: int) -> BinaryIO | None:
        """A file of this machine with room, whose process has ended."""
        assert self._folder is not None
        for path in reversed(files(self._folder)):
            with contextlib.suppress(OSError):
                if path.name.partition("-")[2] != _suffix():
                    continue
                file = open(path, "rb+", buffering=0, opener=_private)  # noqa: SIM115
                if file.seek(0, os.SEEK_END) + size <= self._file_bytes and _locked(file):
                    if not _ends_a_line(file):
                        file.write(b"\n")
                    return file
                file.close()
        return None

    def _begun(self) -> BinaryIO:
        assert self._folder is not None
        while True:
            path = self._folder / f"{time.time_ns()}-{_suffix()}"
            with contextlib.suppress(FileExistsError):  # begun by another in the same moment
                file = open(path, "xb", buffering=0, opener=_private)  # noqa: SIM115
                if _locked(file):
                    return file
                file.close()  # before it was locked, another took it for one that was left


def _suffix() -> str:
    return f"{socket.gethostname()}.jsonl"


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_APPEND, 0o600)


def _locked(file: BinaryIO) -> bool:
    """Takes a file for this process, for as long as it has it open."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _ends_a_line(file: BinaryIO) -> bool:
    size = file.seek(0, os.SEEK_END)
    return not size or os.pread(file.fileno(), 1, size - 1) == b"\n"


def remove_oldest(folder: Path, most_bytes: int) -> None:
    """Removes the files that began first until the others fit; the newest stays."""
    sizes: dict[Path, int] = {}
    for path in files(folder):
        with contextlib.suppress(FileNotFoundError):
            sizes[path] = path.stat().st_size
    total = sum(sizes.values())
    for path in list(sizes)[:-1]:
        if total <= most_bytes:
            return
        path.unlink(missing_ok=True)
        total -= sizes[path]


def files(folder: Path) -> list[Path]:
    """The files of an audit log, those that were begun first before others."""
    found = [path for path in folder.glob("*-*.jsonl") if path.name.split("-")[0].isdecimal()]
    return sorted(found, key=lambda path: (int(path.name.split("-")[0]), path.name))


def read(folder: Path) -> Iterator[dict[str, Any]]:
    """All lines of a folder, in the order of their times; a torn one is left out."""
    return heapq.merge(*map(_lines, files(folder)), key=lambda entry: entry["time"])


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        file = path.open("rb")
    except FileNotFoundError:  # removed since it was listed
        return
    with file:
        for line in file:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and isinstance(entry.get("time"), str):
                yield entry


def stamp(time_s: float) -> str:
    """A time as the lines have it: RFC 3339, UTC, with milliseconds."""
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def result_of(error: BaseException | None) -> str:
    """What a line says of how it ended."""
    if error is None:
        return OK
    if isinstance(error, asyncio.CancelledError | GeneratorExit):  # the caller went away
        return Cancelled.default_reason
    return error.reason if isinstance(error, LarimarError) else LarimarError.default_reason
