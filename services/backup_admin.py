"""The operator's way to backups: the store's files, without a key and without a service.

`python -m services.backup_admin`: a job as of services/admin.py (action back_up or restore, folder,
data_dir, and what the action needs).
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from larimar.cli import processes
from larimar.errors import FailedPrecondition, InvalidArgument, NotFound
from services.admin import answer, progress
from services.backup import FILES, make_backup
from services.build import LEDGER_NAME
from services.memory.ledger import EraseLedger
from services.redis_log import RedisLog
from services.restore import restore_backup
from services.settings import Settings, default_settings


def perform(job: dict[str, Any]) -> dict[str, Any]:
    """Does what a job asks. Raises: LarimarError."""
    settings = default_settings()
    data_dir, folder = Path(job["data_dir"]), Path(job["folder"])
    if job["action"] == "back_up":
        return _backed_up(settings, job.get("redis_url") or settings.redis_url, data_dir, folder)
    if job["action"] == "restore":
        processes.refuse_second(data_dir)
        restored = restore_backup(
            folder,
            data_dir,
            ledger_path(settings, data_dir),
            [_existing(Path(copy)) for copy in job["ledgers"]],
            job["replace"],
            settings.redis_server or None,
            progress,
        )
        return asdict(restored)
    raise InvalidArgument(f"unknown action {job['action']!r}")


def ledger_path(settings: Settings, data_dir: Path) -> Path:
    """The erase ledger that a pipeline of these settings and data directory keeps."""
    return Path(settings.erase_ledger) if settings.erase_ledger else data_dir / LEDGER_NAME


def _backed_up(settings: Settings, url: str, data_dir: Path, folder: Path) -> dict[str, Any]:
    source = asyncio.run(_append_folder(url)) if url else data_dir / FILES
    if not url and not data_dir.is_dir():
        raise NotFound(f"no data directory {data_dir}: give --data-dir", "NO_DATA_DIR")
    lines = len(EraseLedger(ledger_path(settings, data_dir)).entries())
    made = make_backup(source, folder, lines, settings.redis_server or None, progress)
    return {
        "folder": str(made.folder),
        "made_ms": made.made_ms,
        "bytes": made.bytes,
        "keys": made.keys,
        "ledger_lines": made.ledger_lines,
        "banks": [asdict(one) for one in made.banks],
    }


async def _append_folder(url: str) -> Path:
    """Where a store of this machine keeps its append-only file. Raises: FailedPrecondition."""
    log = RedisLog(url)
    try:
        files = await log.files()
    finally:
        await log.close()
    for name in files or ():
        if name.endswith(".manifest"):
            return Path(name).parent
    raise FailedPrecondition(
        "the store's files are not on this machine: back them up there, as that store does",
        "STORE_NOT_LOCAL",
    )


def _existing(copy: Path) -> Path:
    if not copy.is_file():
        raise NotFound(f"no erase ledger {copy}: name the newest copy of it", "NO_LEDGER")
    return copy


if __name__ == "__main__":
    sys.exit(answer(perform))
