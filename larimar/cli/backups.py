"""Commands of the operator about a whole store: backup and restore. They need no key."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from larimar.cli.admin import perform
from larimar.cli.console import AsJson, emit, note, print_table, say, shorten
from larimar.cli.keys import DataDir, RedisUrl

MODULE = "services.backup_admin"


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command(epilog="Example: larimar backup backups/monday --data-dir .larimar")(backup)
    app.command(
        epilog="Example: larimar restore backups/monday --data-dir .larimar --ledger ledger.jsonl"
    )(restore)


def backup(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to; it must not exist.")],
    data_dir: DataDir = Path(".larimar"),
    redis_url: RedisUrl = None,
    as_json: AsJson = False,
) -> None:
    """Copies the whole store, serving or not: every tenant's banks, keys and queues.

    The copy is loaded and every bank of it replayed before it counts. The erase ledger is no part
    of it: keep copies of that elsewhere.
    """
    made = _performed("back_up", folder, data_dir, as_json, redis_url=redis_url or "")
    if as_json:
        emit(made)
        return
    _print_banks(made["banks"])
    say(
        f"{made['folder']}: {len(made['banks'])} banks, {made['keys']} keys, "
        f"{made['bytes']} bytes, as of {_time(made['made_ms'])}"
    )


def restore(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What `backup` wrote.")],
    data_dir: DataDir = Path(".larimar"),
    ledger: Annotated[
        list[Path] | None,
        typer.Option(help="A copy of the erase ledger, whose lines are added; may be repeated."),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Move the files that are there aside.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Puts a backup into a data directory of this machine, and compares every bank's digest.

    What was erased since the backup, by the ledger, is erased from it again before it serves.
    """
    copies = [str(copy.resolve()) for copy in ledger or []]
    made = _performed("restore", folder, data_dir, as_json, ledgers=copies, replace=replace)
    if as_json:
        emit(made)
        return
    _print_banks(made["banks"])
    again = sum(one["erased_again"] for one in made["banks"])
    say(
        f"{data_dir}: {len(made['banks'])} banks as of {_time(made['made_ms'])}, {again} facts "
        f"erased again by {made['ledger_lines']} lines of the erase ledger"
    )
    if made["moved_to"]:
        note(f"what was there is in {made['moved_to']}: remove it, or erased facts stay in it")
    note("later events are gone: have publishers send them again; revoke keys that were revoked")


def _performed(action: str, folder: Path, data_dir: Path, as_json: bool, **more: Any) -> Any:
    told = (lambda _: None) if as_json else note
    job = {"action": action, "folder": str(folder.resolve()), **more}
    (answer,) = perform(MODULE, data_dir, told, **job)
    return answer


def _print_banks(banks: list[dict[str, Any]]) -> None:
    print_table(
        ("tenant", "bank", "version", "facts", "digest"),
        [
            (one["tenant"], one["bank"], one["version"], one["facts"], shorten(one["digest"]))
            for one in banks
        ],
    )


def _time(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
