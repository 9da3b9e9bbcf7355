"""Restoring: a backup's files into a data directory, compared, and erased again by the ledger."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from larimar.errors import Conflict, DataLoss, FailedPrecondition, Unavailable
from services.backup import FILES, STATE_BUDGET_BYTES, Backup, BankMark, hashes, mark, open_backup
from services.follower import Follower
from services.memory.erasure import Eraser
from services.memory.ledger import EraseLedger
from services.redis_inbox import RedisInbox
from services.redis_log import RedisLog
from services.store import EmbeddedStore

ERASE_TIMEOUT_S = 3600.0
"""Time that the erasures of a restore may take: each rewrites the store's files and replays."""
PAUSE_S = 0.2
"""Between two looks at whether they are done."""

Told = Callable[[str], None]


@dataclass(frozen=True)
class Restored:
    """What a restore came to."""

    made_ms: int
    banks: list[dict[str, Any]]
    """Each bank as the backup marks it, found so, with `erased_again`: facts that the ledger took
    out of it, and `matches`: a replay afterwards gave what is served."""
    keys: int
    ledger_lines: int
    moved_to: str
    """Where the files are that were there before; empty where there were none."""


def restore_backup(
    folder: Path,
    data_dir: Path,
    ledger: Path,
    ledger_copies: list[Path],
    replace: bool,
    server: str | None,
    told: Told,
) -> Restored:
    """Puts a backup into a data directory; what was erased since it was made stays gone.

    Args:
        ledger: the erase ledger that the pipeline will use; it only grows.
        ledger_copies: other copies of it, whose lines are added.
        replace: moves files that are there aside; else they are refused.

    Raises:
        NotFound, DataLoss: as `open_backup`.
        Conflict: DATA_DIR_NOT_EMPTY.
        FailedPrecondition: LEDGER_TOO_OLD; DATA_DIR_LOCKED, a pipeline has the directory.
        DataLoss: RESTORE_DIFFERS, a bank is not the one that was backed up.
    """
    backup = open_backup(folder)
    lines = merged_ledger(ledger, ledger_copies)
    if lines < backup.ledger_lines:
        raise FailedPrecondition(
            f"the erase ledger {ledger} has {lines} lines, and had {backup.ledger_lines} when the "
            "backup was made: give the newest copy of it (--ledger), or erased facts would return",
            "LEDGER_TOO_OLD",
        )
    moved = _place(backup, data_dir, replace)
    told("loading the store")
    with EmbeddedStore(data_dir, server) as store:
        banks = asyncio.run(_checked(store.url, backup, EraseLedger(ledger), told))
    return Restored(backup.made_ms, banks, backup.keys, lines, moved)


def merged_ledger(ledger: Path, copies: list[Path]) -> int:
    """Adds the lines of other copies to the erase ledger; how many it has."""
    kept = EraseLedger(ledger)
    for copy in copies:
        kept.add(EraseLedger(copy).entries())
    return len(kept.entries())


def _place(backup: Backup, data_dir: Path, replace: bool) -> str:
    """Puts the files where the store looks for them; where those are that were there."""
    target, moved = data_dir / FILES, ""
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    if target.is_dir() and any(target.iterdir()):
        if not replace:
            raise Conflict(
                f"{data_dir} holds a store already: restore into another data directory, or move "
                "its files aside (--replace)",
                "DATA_DIR_NOT_EMPTY",
            )
        moved = str(data_dir / f"{FILES}.before-{time.time_ns() // 10**6}")
    part = data_dir / f".{FILES}.part"
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(backup.folder / FILES, part)
    if hashes(part) != backup.files:
        raise DataLoss(f"{part} is not what was copied to it: look at the disk", "BAD_BACKUP")
    if moved:
        os.rename(target, moved)
    elif target.is_dir():
        target.rmdir()
    os.rename(part, target)
    return moved


async def _checked(
    url: str, backup: Backup, ledger: EraseLedger, told: Told
) -> list[dict[str, Any]]:
    """Compares every bank with its mark, erases what the ledger names, and replays."""
    log, inbox = RedisLog(url), RedisInbox(url)
    follower = Follower(log, ("memory",), STATE_BUDGET_BYTES)
    eraser = Eraser(log, follower, inbox, ledger)
    try:
        for one in backup.banks:
            told(f"comparing {one.tenant}/{one.bank}")
            _compare(one, await mark(log, one.tenant, one.bank))
        await eraser.restoring.restored()
        for error in eraser.restoring.unrestored.values():
            raise error
        await _finished(log, eraser, told)
        found = []
        for one in backup.banks:
            after = await follower.verified(one.tenant, one.bank)
            again = after.erase_count - one.erase_count
            if not after.matches:
                raise _differs(one, "a replay differs from what is served")
            found.append({**asdict(one), "erased_again": again, "matches": after.matches})
        return found
    finally:
        await eraser.close()
        await follower.close()
        await log.close()
        await inbox.close()


async def _finished(log: RedisLog, eraser: Eraser, told: Told) -> None:
    """Returns when no erasure is left to do, of those too that the backup found at work."""
    give_up, said = time.monotonic() + ERASE_TIMEOUT_S, 0
    while left := [name for _, _, name in await log.jobs() if name.startswith("erase:")]:
        if len(left) != said:
            said = len(left)
            told(f"erasing again: {said} left")
        await eraser.take_up(left_s=0.0)
        if time.monotonic() > give_up:
            raise Unavailable(
                f"{len(left)} erasures are not done after {ERASE_TIMEOUT_S:.0f} s: start the "
                "pipeline, which goes on with them, and look at its log",
                "BUSY",
            )
        await asyncio.sleep(PAUSE_S)


def _compare(wanted: BankMark, found: BankMark) -> None:
    if wanted != found:
        raise _differs(wanted, f"version {found.version} with digest {found.digest[:12]}")


def _differs(wanted: BankMark, found: str) -> DataLoss:
    return DataLoss(
        f"bank {wanted.bank!r} of tenant {wanted.tenant!r} is not as it was backed up (version "
        f"{wanted.version}, digest {wanted.digest[:12]}): {found}",
        "RESTORE_DIFFERS",
    )
