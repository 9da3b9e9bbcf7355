"""Commands about several banks or states: fork, merge, diff, export, import."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from larimar.cli.banks import bank_json
from larimar.cli.console import (
    DEFAULT_TARGET,
    LONG_TIMEOUT_S,
    AsJson,
    At,
    Target,
    Timeout,
    connect,
    emit,
    note,
    print_table,
    progressing,
    say,
    shorten,
    working,
)
from larimar.results import Fact, FactChange


class Policy(StrEnum):
    """What becomes of a fact that both sides of a merge have changed."""

    fail = "fail"
    ours = "ours"
    theirs = "theirs"


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command(epilog="Example: larimar fork demo trial --at 12")(fork)
    app.command(epilog="Example: larimar merge trial demo --policy theirs --dry-run")(merge)
    app.command(epilog="Example: larimar diff demo 12 20; larimar diff demo 12 --to-bank trial")(
        diff
    )
    app.command(name="export", epilog="Example: larimar export demo backups/demo")(export_bank)
    app.command(name="import", epilog="Example: larimar import backups/demo --bank again")(
        import_bank
    )


def fork(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="The bank.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Name of the fork.")],
    at: At = 0,
    target: Target = DEFAULT_TARGET,
    timeout: Timeout = 30.0,
    as_json: AsJson = False,
) -> None:
    """Makes a bank that shares another's history up to a version; nothing is copied."""
    with connect(target, timeout) as client, working(f"forking {source}"):
        info = client.fork(source, new, at=at)
    if as_json:
        emit({**bank_json(info), "created": info.created})
    else:
        made = "made" if info.created else "exists"
        say(f"bank {info.bank} {made}: {source} as of version {info.version}, {info.facts} facts")


def merge(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Whose changes are taken.")],
    into: Annotated[str, typer.Argument(metavar="INTO", help="The bank that takes them.")],
    policy: Annotated[
        Policy, typer.Option(help="On a conflict: refuse, keep INTO's side, or take SOURCE's.")
    ] = Policy.fail,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would happen, and change nothing.")
    ] = False,
    merge_id: Annotated[
        str | None, typer.Option(help="Idempotency key; made when not given.")
    ] = None,
    target: Target = DEFAULT_TARGET,
    timeout: Timeout = LONG_TIMEOUT_S,
    as_json: AsJson = False,
) -> None:
    """Applies to a bank what another of its family has changed since they parted."""
    with connect(target, timeout) as client, working(f"merging {source} into {into}"):
        result = client.merge(
            source,
            into,
            policy=policy.value,
            dry_run=dry_run,
            merge_id=merge_id,
            timeout_s=timeout,
        )
    if as_json:
        emit(asdict(result))
        return
    verb = "would write" if dry_run else "wrote"
    say(
        f"{source} into {into}: {verb} {result.written}, forgot {result.forgotten}, "
        f"{result.conflict_count} conflicts ({policy.value}); {into} at version {result.version}"
    )
    if result.conflicts:
        print_table(
            ("fact id", "at the fork", f"in {into}", f"in {source}"),
            [
                (
                    one.fact_id,
                    one.base_version or "-",
                    one.target_version or "-",
                    one.source_version or "-",
                )
                for one in result.conflicts
            ],
            "conflicts, by the version of the live write",
        )
    for fact_id in result.overtaken:
        note(f"left alone, since it was changed meanwhile: {fact_id}")


def diff(
    bank: Annotated[str, typer.Argument(metavar="BANK", help="The bank.")],
    from_version: Annotated[
        int, typer.Argument(metavar="V1", min=0, help="The state before; 0: the empty bank.")
    ],
    to_version: Annotated[
        int, typer.Argument(metavar="V2", min=0, help="The state after; 0: the newest.")
    ] = 0,
    to_bank: Annotated[
        str | None, typer.Option(help="The bank that V2 is of, when it is another.")
    ] = None,
    target: Target = DEFAULT_TARGET,
    timeout: Timeout = LONG_TIMEOUT_S,
    as_json: AsJson = False,
) -> None:
    """Facts added, removed and changed between two versions, by fact id."""
    with connect(target, timeout) as client, working(f"comparing {bank}"):
        changes = list(client.diff(bank, from_version, to_version, to_bank=to_bank))
    counts = Counter(change.kind for change in changes)
    totals = {name: counts[name.upper()] for name in ("added", "removed", "changed")}
    if as_json:
        emit(
            {
                "bank": bank,
                "from_version": from_version,
                "to_bank": to_bank or bank,
                "to_version": to_version,
                **totals,
                "changes": [asdict(change) for change in changes],
            }
        )
        return
    print_table(("", "fact id", "prompt", "before", "after"), [_change_row(c) for c in changes])
    say(", ".join(f"{count} {name}" for name, count in totals.items()))


def _change_row(change: FactChange) -> tuple[str, ...]:
    fact = change.after or change.before
    prompt = fact.prompt if fact else ""
    return change.kind, change.fact_id, prompt, _side(change.before), _side(change.after)


def _side(fact: Fact | None) -> str:
    return "-" if fact is None else f"{fact.answer} (version {fact.version})"


def export_bank(
    bank: Annotated[str, typer.Argument(metavar="BANK", help="The bank.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to; it must not exist.")],
    target: Target = DEFAULT_TARGET,
    timeout: Timeout = LONG_TIMEOUT_S,
    as_json: AsJson = False,
) -> None:
    """Writes a bank's whole log to a folder: JSON lines, safetensors, and the SHA-256 of each."""
    with connect(target, timeout) as client, progressing(f"exporting {bank}", as_json) as update:
        result = client.export_bank(folder, bank=bank, progress=update, timeout_s=timeout)
    if as_json:
        emit(asdict(result))
    else:
        say(
            f"{result.folder}: bank {result.bank} at version {result.version}, "
            f"{result.files} files, {result.bytes} bytes, digest {shorten(result.digest)}"
        )


def import_bank(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What `export` wrote.")],
    bank: Annotated[
        str | None, typer.Option("--bank", "-b", help="Name of the new bank; else the archive's.")
    ] = None,
    target: Target = DEFAULT_TARGET,
    timeout: Timeout = LONG_TIMEOUT_S,
    as_json: AsJson = False,
) -> None:
    """Makes a bank of an exported one, entry for entry, after checking every file of it.

    What was erased here since the export is erased from it again.
    """
    with connect(target, timeout) as client, progressing(f"importing {folder}", as_json) as update:
        result = client.import_bank(folder, bank=bank, progress=update, timeout_s=timeout)
    if as_json:
        shown = bank_json(result.info)
        emit({**shown, "digest": result.digest, "erased_again": result.erased_again})
    else:
        again = f", {result.erased_again} facts erased again" if result.erased_again else ""
        say(
            f"bank {result.info.bank} made: version {result.info.version}, "
            f"{result.info.facts} facts, digest {shorten(result.digest)}{again}"
        )
