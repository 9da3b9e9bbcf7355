"""Backups and restores over a real store: whole, compared, no way back for what was erased."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest

from larimar.errors import (
    Conflict,
    DataLoss,
    FailedPrecondition,
    LarimarError,
    NotFound,
    Unavailable,
)
from larimar.memory import Kind, make_payload, request_body
from services import backup as backups
from services.backup import DOCUMENT, FILES, copy_files, make_backup, open_backup, part_names
from services.follower import Follower
from services.keys import new_key
from services.log import Append
from services.memory.erasure import Eraser, NoQueues
from services.memory.ledger import EraseLedger
from services.redis_keys import RedisKeys
from services.redis_log import RedisLog
from services.restore import restore_backup
from services.store import EmbeddedStore
from tests.banks import config_of

T, B = "acme", "kb"
CONFIG = config_of("slots")


def quiet(_: str) -> None:
    pass


def prompt(bank: str, number: int) -> str:
    return f"The harbour master of {bank} number {number} is"


def write(bank: str, number: int) -> Append:
    rng = np.random.default_rng(number)
    sizes = ((1, CONFIG.prompt_size), CONFIG.value_size, (1, CONFIG.scope_size))
    vectors = [rng.standard_normal(size).astype(np.float32) for size in sizes]
    payload = make_payload(CONFIG, f"f{number}", prompt(bank, number), "Odd Sten", (), *vectors)
    body = request_body(Kind.WRITE, payload.fact_id, payload.prompt, payload.answer)
    return Append(Kind.WRITE, f"e{number}", payload.fact_id, body, payload.to_bytes())


async def fill(url: str, count: int) -> None:
    log, keys = RedisLog(url), RedisKeys(url)
    for bank in (B, "second"):
        await log.make_bank(T, bank, CONFIG)
        await log.append(T, bank, [write(bank, number) for number in range(count)])
    await log.fork(T, B, "trial", 2)
    await log.make_bank("other", B, CONFIG)
    await keys.add(new_key(T, ["read"], "dashboard")[0])
    await log.close()
    await keys.close()


async def erase(url: str, ledger: Path, fact_id: str) -> None:
    log = RedisLog(url)
    eraser = Eraser(log, Follower(log, ("memory",), 1 << 30), NoQueues(), EraseLedger(ledger))
    await eraser.erase(T, B, [fact_id], f"erase {fact_id}")
    while await log.jobs():
        await asyncio.sleep(0.01)
    await eraser.close()
    await log.close()


@pytest.fixture
def store(tmp_path: Path):
    with EmbeddedStore(tmp_path / "data") as running:
        asyncio.run(fill(running.url, 5))
        yield running


@pytest.fixture
def backup(store: EmbeddedStore, tmp_path: Path) -> backups.Backup:
    return make_backup(store.data_dir / FILES, tmp_path / "backup", 0, None, quiet)


def restore(tmp_path: Path, *, replace: bool = False, copies: tuple[Path, ...] = ()):
    return restore_backup(
        tmp_path / "backup",
        tmp_path / "elsewhere",
        tmp_path / "elsewhere" / "erase-ledger.jsonl",
        list(copies),
        replace,
        None,
        quiet,
    )


def test_a_backup_of_a_serving_store_has_every_tenant_and_comes_back(
    backup, store, tmp_path
) -> None:
    assert [(one.tenant, one.bank, one.version) for one in backup.banks] == [
        (T, B, 5),
        (T, "second", 5),
        (T, "trial", 2),
        ("other", B, 0),
    ]
    assert backup.keys == 1
    assert len({one.digest for one in backup.banks}) == 4
    assert store.is_alive()
    restored = restore(tmp_path)
    assert [one["digest"] for one in restored.banks] == [one.digest for one in backup.banks]
    assert all(one["matches"] and not one["erased_again"] for one in restored.banks)
    with EmbeddedStore(tmp_path / "elsewhere") as other:
        found, keys = asyncio.run(backups.marks(other.url, quiet))
    assert (tuple(found), keys) == (backup.banks, 1)
    left = {path.name for path in (tmp_path / "backup").iterdir()}
    assert left == {DOCUMENT, FILES}


def test_what_was_erased_after_the_backup_is_erased_again_from_files_too(
    backup, store, tmp_path
) -> None:
    ledger = tmp_path / "ledger-copy.jsonl"
    asyncio.run(erase(store.url, ledger, "f1"))
    needle = prompt(B, 1).encode()
    assert any(needle in path.read_bytes() for path in (backup.folder / FILES).iterdir())
    restored = restore(tmp_path, copies=(ledger,))
    again = {(one["tenant"], one["bank"]): one["erased_again"] for one in restored.banks}
    assert again == {(T, B): 1, (T, "trial"): 1, (T, "second"): 0, ("other", B): 0}
    files = list((tmp_path / "elsewhere" / FILES).iterdir())
    with EmbeddedStore(tmp_path / "elsewhere") as other:
        found = asyncio.run(backups.marks(other.url, quiet))[0]
    assert [(one.bank, one.facts) for one in found] == [(B, 4), ("second", 5), ("trial", 1), (B, 0)]
    contents = [path.read_bytes() for path in files]
    assert not any(needle in content for content in contents)
    assert any(prompt(B, 2).encode() in content for content in contents)
    assert restored.ledger_lines == 1  # of the log that bank and fork have in common


def test_a_ledger_that_is_older_than_the_backup_is_refused(store, tmp_path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    asyncio.run(erase(store.url, ledger, "f0"))
    lines = len(EraseLedger(ledger).entries())
    make_backup(store.data_dir / FILES, tmp_path / "backup", lines, None, quiet)
    with pytest.raises(FailedPrecondition) as refused:
        restore(tmp_path)
    assert refused.value.reason == "LEDGER_TOO_OLD"
    assert not (tmp_path / "elsewhere" / FILES).exists()
    assert restore(tmp_path, copies=(ledger, ledger)).ledger_lines == lines


def test_a_store_that_is_there_is_kept_unless_told(backup, tmp_path) -> None:
    restore(tmp_path)
    with pytest.raises(Conflict) as refused:
        restore(tmp_path)
    assert refused.value.reason == "DATA_DIR_NOT_EMPTY"
    moved = Path(restore(tmp_path, replace=True).moved_to)
    assert moved.parent == tmp_path / "elsewhere" and any(moved.iterdir())


@pytest.mark.parametrize("what", ["flipped", "shorter", "missing", "more", "marks", "no json"])
def test_a_backup_that_is_not_what_was_written_is_refused(backup, tmp_path, what: str) -> None:
    largest = max((backup.folder / FILES).iterdir(), key=lambda path: path.stat().st_size)
    content, document = largest.read_bytes(), backup.folder / DOCUMENT
    if what == "flipped":
        largest.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    elif what == "shorter":
        largest.write_bytes(content[:-1])
    elif what == "missing":
        largest.unlink()
    elif what == "more":
        (backup.folder / FILES / "more").write_bytes(b"")
    elif what == "marks":
        document.write_text(document.read_text().replace('"version": 5', '"version": 4', 1))
    else:
        document.write_text("{")
    with pytest.raises(DataLoss) as refused:
        restore(tmp_path)
    assert refused.value.reason == "BAD_BACKUP"
    assert not (tmp_path / "elsewhere" / FILES).exists()


def test_a_bank_that_is_another_one_than_was_marked_is_found(backup, tmp_path) -> None:
    """As where the store's files were damaged before they were copied, or by another program."""
    document = backup.folder / DOCUMENT
    marks = list(backup.banks)
    marks[0] = backups.BankMark(T, B, 5, marks[0].chain, 0, 5, "0" * 64)
    forged = backups.Backup(
        backup.folder, backup.made_ms, tuple(marks), backup.keys, 0, backup.files
    )
    document.write_bytes(backups._document(forged))
    with pytest.raises(DataLoss) as refused:
        restore(tmp_path)
    assert refused.value.reason == "RESTORE_DIFFERS"


def test_no_backup_and_no_source_are_said(backup, tmp_path) -> None:
    with pytest.raises(NotFound):
        open_backup(tmp_path)
    with pytest.raises(NotFound) as refused:
        make_backup(tmp_path / "nothing", tmp_path / "b", 0, None, quiet)
    assert refused.value.reason == "NO_BACKUP_SOURCE"
    with pytest.raises(Conflict) as refused:
        make_backup(tmp_path / "data" / FILES, backup.folder, 0, None, quiet)
    assert refused.value.reason == "BACKUP_EXISTS"
    assert not list(tmp_path.glob(".*.part"))


def files_of(folder: Path, manifest: str, **parts: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in parts.items():
        (folder / name).write_bytes(content)
    (folder / "appendonly.aof.manifest").write_text(manifest)
    return folder


def test_files_that_are_rewritten_while_they_are_copied_are_copied_anew(
    tmp_path, monkeypatch
) -> None:
    one = "file a seq 1 type b\nfile gone seq 1 type h\nfile b seq 1 type i\n"
    source = files_of(tmp_path / "source", one, a=b"base", b="\u00fc half".encode())
    assert part_names(one.encode()) == ["a", "b"]
    rounds = []
    real = backups._copy

    def rewritten(path: Path, target: Path) -> None:
        real(path, target)
        if len(rounds) < 2:
            rounds.append(path.name)
            files_of(source, f"file c{len(rounds)} seq 2 type b\n", **{f"c{len(rounds)}": b"new"})
            (source / path.name).unlink()

    monkeypatch.setattr(backups, "_copy", rewritten)
    monkeypatch.setattr(backups, "COPY_PAUSE_S", 0.0)
    copy_files(source, tmp_path / "target")
    assert rounds == ["a", "b"]
    assert sorted(path.name for path in (tmp_path / "target").iterdir()) == [
        "appendonly.aof.manifest",
        "c2",
    ]
    monkeypatch.setattr(backups, "MAX_COPIES", 0)
    with pytest.raises(Unavailable):
        copy_files(source, tmp_path / "target")


def test_half_an_event_at_the_end_is_not_in_the_backup(store, tmp_path) -> None:
    cut = tmp_path / "cut"
    copy_files(store.data_dir / FILES, cut)
    last = cut / part_names((cut / "appendonly.aof.manifest").read_bytes())[-1]
    last.write_bytes(last.read_bytes()[:-7])
    made = make_backup(cut, tmp_path / "backup", 0, None, quiet)
    assert made.keys == 0  # the key was written last
    assert [one.version for one in made.banks][:3] == [5, 5, 2]
    assert isinstance(json.loads((made.folder / DOCUMENT).read_text())["banks"], list)


async def test_the_error_of_the_store_passes() -> None:
    log = RedisLog("unix:///nowhere/redis.sock")
    with pytest.raises(LarimarError):
        await backups.mark(log, T, B)
    await log.close()
