"""Backups: the store's append-only file, copied while it serves, and proven by loading the copy.

    backup.json      what it is: banks with version, chain and digest, and the SHA-256 of each file
    appendonlydir/   the store's files, cut at one moment for all banks, keys and queues

The erase ledger is no part of a backup: one that went back in time with the log would let erased
facts return.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from larimar.errors import Conflict, DataLoss, NotFound, Unavailable
from services.follower import Follower
from services.log import Log
from services.redis_keys import RedisKeys
from services.redis_log import RedisLog
from services.store import EmbeddedStore

FORMAT = "larimar-backup/1"
DOCUMENT, FILES = "backup.json", "appendonlydir"
MAX_COPIES = 20
"""Times the files are copied anew because the store has rewritten them meanwhile."""
COPY_PAUSE_S = 0.5
"""Before another copy: a rewrite that has just ended is rarely followed by one at once."""
READ_BYTES = 1 << 20
"""Bytes hashed at once."""
STATE_BUDGET_BYTES = 1 << 30
"""Folded state held while banks are replayed one after the other."""

Told = Callable[[str], None]


@dataclass(frozen=True)
class BankMark:
    """A bank at the moment of a backup."""

    tenant: str
    bank: str
    version: int
    chain: str
    erase_count: int
    facts: int
    digest: str


@dataclass(frozen=True)
class Backup:
    """A backup that was made, or was opened and found whole."""

    folder: Path
    made_ms: int
    banks: tuple[BankMark, ...]
    keys: int
    """API keys, revoked ones counted."""
    ledger_lines: int
    """Lines that the erase ledger had: a restore wants one that has at least as many."""
    files: dict[str, str]
    """SHA-256 of each file below appendonlydir."""

    @property
    def bytes(self) -> int:
        """Size of the store's files."""
        return sum((self.folder / FILES / name).stat().st_size for name in self.files)


def make_backup(
    append_folder: Path, folder: Path, ledger_lines: int, server: str | None, told: Told
) -> Backup:
    """Copies the store's files, loads the copy, replays every bank of it, and seals it.

    Args:
        append_folder: where the store keeps its append-only file; it may be serving.
        folder: must not exist.
        server: binary of the store that loads the copy; None takes the packaged one.

    Raises:
        Conflict: BACKUP_EXISTS.
        NotFound: NO_BACKUP_SOURCE, the store has no files there.
        DataLoss: a bank of the copy cannot be replayed.
        Unavailable: the store rewrites its files faster than they are copied.
    """
    refuse_existing(folder)
    part = folder.parent / f".{folder.name}.{uuid.uuid4().hex}.part"
    part.mkdir(parents=True, mode=0o700)
    try:
        made_ms = time.time_ns() // 10**6
        copy_files(append_folder, part / FILES)
        told("copied; loading the copy")
        with EmbeddedStore(part, server) as store:
            banks, keys = asyncio.run(marks(store.url, told))
        for entry in part.iterdir():  # lock, socket and log of the store that loaded it
            if entry.name != FILES:
                entry.unlink()
        backup = Backup(part, made_ms, tuple(banks), keys, ledger_lines, hashes(part / FILES))
        _write(backup)
        refuse_existing(folder)
        os.rename(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return open_backup(folder)


def open_backup(folder: Path) -> Backup:
    """A backup whose files are those that were written.

    Raises:
        NotFound: NO_BACKUP.
        DataLoss: BAD_BACKUP, naming the file that is not what was written.
    """
    try:
        raw = (folder / DOCUMENT).read_bytes()
    except FileNotFoundError:
        raise NotFound(f"no backup in {folder}: it has no {DOCUMENT}", "NO_BACKUP") from None
    try:
        shown = json.loads(raw)
        backup = Backup(
            folder,
            shown["made_ms"],
            tuple(BankMark(**one) for one in shown["banks"]),
            shown["keys"],
            shown["ledger_lines"],
            dict(shown["files"]),
        )
        sound = _document(backup) == raw
    except (ValueError, KeyError, TypeError):
        sound = False
    if not sound:
        raise _bad(folder / DOCUMENT)
    found = hashes(folder / FILES)
    for name in sorted({*found, *backup.files}):
        if found.get(name) != backup.files.get(name):
            raise _bad(folder / FILES / name)
    return backup


async def marks(url: str, told: Told) -> tuple[list[BankMark], int]:
    """Every bank of a store, replayed from nothing, and the number of its API keys."""
    log, keys = RedisLog(url), RedisKeys(url)
    try:
        found = []
        for tenant in await log.tenants():
            for bank in await log.banks(tenant):
                told(f"replaying {tenant}/{bank}")
                found.append(await mark(log, tenant, bank))
        return found, len(await keys.all())
    finally:
        await log.close()
        await keys.close()


async def mark(log: Log, tenant: str, bank: str) -> BankMark:
    """A bank as a replay from nothing finds it. Raises: DataLoss."""
    state = await Follower(log, ("memory",), STATE_BUDGET_BYTES).rebuilt(tenant, bank)
    digest = await asyncio.to_thread(state.digest)
    return BankMark(tenant, bank, state.version, state.chain, state.erase_count, len(state), digest)


def copy_files(source: Path, target: Path) -> None:
    """Copies an append-only file of several parts, as it was at one moment.

    The store only adds to its newest part, so a copy that ends earlier is an earlier moment; half
    an event at its end is dropped when it is loaded. A rewrite replaces parts, and changes the
    manifest: then all is copied anew.

    Raises: as `make_backup`.
    """
    for _ in range(MAX_COPIES):
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(mode=0o700)
        manifest = _manifest(source)
        before = manifest.read_bytes()
        try:
            for name in part_names(before):
                _copy(source / name, target / name)
            unchanged = manifest.read_bytes() == before
        except FileNotFoundError:
            unchanged = False
        if unchanged:
            (target / manifest.name).write_bytes(_without_history(before))
            return
        time.sleep(COPY_PAUSE_S)
    raise Unavailable(
        f"the store has rewritten its files {MAX_COPIES} times while they were copied: try again "
        "when no erasure is at work",
        "BUSY",
    )


def part_names(manifest: bytes) -> list[str]:
    """The parts that a manifest lists, without those that wait for their removal."""
    return [line.split()[1].decode() for line in _lines(manifest)]


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a folder."""
    if not folder.is_dir():
        return {}
    return {path.name: _sha256(path) for path in sorted(folder.iterdir()) if path.is_file()}


def refuse_existing(folder: Path) -> None:
    """Raises: Conflict, BACKUP_EXISTS."""
    if folder.exists():
        raise Conflict(f"{folder} exists: back up to a folder that does not", "BACKUP_EXISTS")


def _manifest(source: Path) -> Path:
    found = sorted(source.glob("*.manifest"))
    if not found:
        raise NotFound(
            f"no append-only file in {source}: name the data directory of a pipeline that has run",
            "NO_BACKUP_SOURCE",
        )
    return found[0]


def _lines(manifest: bytes) -> list[bytes]:
    lines = [line for line in manifest.splitlines() if line.startswith(b"file ")]
    return [line for line in lines if line.split()[-1] != b"h"]


def _without_history(manifest: bytes) -> bytes:
    return b"".join(line + b"\n" for line in _lines(manifest))


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    with target.open("rb") as file:
        os.fsync(file.fileno())


def _write(backup: Backup) -> None:
    with (backup.folder / DOCUMENT).open("wb") as file:
        file.write(_document(backup))
        file.flush()
        os.fsync(file.fileno())


def _document(backup: Backup) -> bytes:
    """backup.json; its own SHA-256 goes last, over all the others."""
    shown: dict[str, Any] = {
        "format": FORMAT,
        "made_ms": backup.made_ms,
        "banks": [asdict(one) for one in backup.banks],
        "keys": backup.keys,
        "ledger_lines": backup.ledger_lines,
        "files": dict(sorted(backup.files.items())),
    }
    shown["sha256"] = hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()
    return json.dumps(shown, indent=1).encode() + b"\n"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(READ_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _bad(path: Path) -> DataLoss:
    return DataLoss(
        f"{path} is not as it was backed up: take another copy of the backup", "BAD_BACKUP"
    )
