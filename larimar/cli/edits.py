"""Commands that edit other than by one write: censor, edit, erase; and the history of a fact."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from larimar.cli.banks import print_events
from larimar.cli.console import (
    DEFAULT_TARGET,
    LONG_TIMEOUT_S,
    AsJson,
    Bank,
    Target,
    Timeout,
    connect,
    emit,
    note,
    print_table,
    progressing,
    say,
    shorten,
)
from larimar.cli.facts import edit_json
from larimar.cli.files import parse_json, read_lines
from larimar.errors import DataLoss, InvalidArgument, NotFound
from larimar.results import ERASE_STEPS, Edit, EraseReceipt, FailedEdit


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command(epilog="Example: larimar censor 'The password of the vault is' --bank demo")(censor)
    app.command(epilog="Example: larimar edit --file edits.jsonl --bank demo")(edit)
    app.command(
        epilog="Example: larimar erase 3f2a9c0d41b7e655 --bank demo; "
        "larimar erase --receipt 0b6f2c9a --bank demo"
    )(erase)
    app.command(epilog="Example: larimar history 3f2a9c0d41b7e655 --bank demo")(history)


EventId = Annotated[str | None, typer.Option(help="Idempotency key; made when not given.")]


def censor(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What must not be answered.")],
    fact_id: Annotated[
        str | None,
        typer.Option("--id", help="The fact to replace; made from the prompt when not given."),
    ] = None,
    rephrase: Annotated[
        list[str] | None, typer.Option(help="Another way to put the prompt; may be repeated.")
    ] = None,
    event_id: EventId = None,
    bank: Bank = "default",
    target: Target = DEFAULT_TARGET,
    timeout: Timeout = 30.0,
    as_json: AsJson = False,
) -> None:
    """Writes "unknown" as the answer of a prompt, also for what only the base model knows."""
    with connect(target, timeout) as client:
        made = client.censor(
            prompt, bank=bank, fact_id=fact_id, event_id=event_id, rephrasings=rephrase or ()
        )
    if as_json:
        emit(edit_json(made))
    else:
        say(f"censored: fact {made.fact_id}, bank {made.bank} at version {made.version}")


def edit(
    file: Annotated[
        Path,
        typer.Option(
            help='JSON lines, {"write": {...}}, {"forget": {...}} or {"censor": {...}}; - is stdin.'
        ),
    ],
    bank: Bank = "default",
    target: Target = DEFAULT_TARGET,
    timeout: Timeout = 30.0,
    as_json: AsJson = False,
) -> None:
    """Makes all edits of a file at once, atomically; at most 256. Exits with 1 when one is refused.

    A line that is malformed stops the whole; an edit that is refused, such as a forget of an
    unknown fact, changes nothing, and the others are made.
    """
    if str(file) != "-" and not file.is_file():
        raise typer.BadParameter(f"there is no file {file}", param_hint="--file")
    items = _read_edits(file, bank)
    with connect(target, timeout) as client:
        results = client.edit(items, bank=bank)
    failed = [one for one in results if isinstance(one, FailedEdit)]
    if as_json:
        emit({"bank": bank, "results": [_result_json(one) for one in results]})
    else:
        print_table(
            ("edit", "fact id", "outcome"),
            [
                (next(iter(item)), one.fact_id, _outcome(one))
                for item, one in zip(items, results, strict=True)
            ],
        )
    if failed:
        raise typer.Exit(1)


def _read_edits(file: Path, bank: str) -> list[dict[str, Any]]:
    from larimar.bank_messages import edit_item

    items = []
    with ExitStack() as stack:
        stream = sys.stdin.buffer if str(file) == "-" else stack.enter_context(file.open("rb"))
        for number, line in read_lines(stream):
            try:
                item = parse_json(line)
                edit_item(item, bank)
            except InvalidArgument as error:
                raise InvalidArgument(f"line {number}: {error.message}", error.reason) from None
            items.append(item)
    return items


def _result_json(result: Edit | FailedEdit) -> dict[str, Any]:
    if isinstance(result, Edit):
        return edit_json(result)
    shown = {"code": result.error.reason, "message": result.error.message}
    return {"error": shown, "fact_id": result.fact_id, "event_id": result.event_id}


def _outcome(result: Edit | FailedEdit) -> str:
    if isinstance(result, FailedEdit):
        return f"refused: {result.error.message}"
    return f"version {result.version}" + (" (it had been made before)" if result.duplicate else "")


def erase(
    fact_ids: Annotated[
        list[str] | None, typer.Argument(metavar="FACT_ID...", help="The facts.")
    ] = None,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Leave when nobody can read the facts any more.")
    ] = False,
    receipt: Annotated[
        str | None,
        typer.Option(metavar="EVENT_ID", help="Print the receipt of an earlier erasure."),
    ] = None,
    event_id: EventId = None,
    bank: Bank = "default",
    target: Target = DEFAULT_TARGET,
    timeout: Timeout = LONG_TIMEOUT_S,
    as_json: AsJson = False,
) -> None:
    """Erases facts from a bank and all its forks, bytes and all, and prints the receipt.

    The ids are retired. This cannot be undone.
    """
    if bool(fact_ids) == bool(receipt):
        raise typer.BadParameter("give FACT_IDs, or --receipt EVENT_ID")
    with connect(target, timeout) as client:
        if receipt:
            found = client.erase_receipt(receipt, bank=bank)
        else:
            with progressing("erasing", as_json) as update:
                found = client.erase(
                    fact_ids or (),
                    bank=bank,
                    event_id=event_id,
                    wait=not no_wait,
                    progress=_stepping(update),
                    timeout_s=timeout,
                )
    if as_json:
        emit({**asdict(found), "done": found.done})
    else:
        _print_receipt(found)
    if found.done and _broken(found):
        raise DataLoss(
            f"erasure {found.event_id} is not complete: something of the facts was found, or a "
            "replay differs; see its receipt",
            "ERASE_INCOMPLETE",
        )


def _stepping(update: Callable[[int, int], None]) -> Callable[[EraseReceipt], None]:
    def told(found: EraseReceipt) -> None:
        if found.step in ERASE_STEPS:
            update(ERASE_STEPS.index(found.step) + 1, len(ERASE_STEPS))

    return told


def _broken(found: EraseReceipt) -> bool:
    left = found.scan is not None and found.scan.found > 0
    return left or not all(one.replay_matches for one in found.banks)


def _print_receipt(found: EraseReceipt) -> None:
    rows: list[tuple[str, object]] = [
        ("event id", found.event_id),
        ("step", f"{found.step}" + ("" if found.done else " (goes on)")),
        ("facts", "\n".join(f"sha256 {digest}" for digest in found.fact_id_sha256)),
        ("payloads removed", found.payloads_removed),
        ("checkpoints removed", found.checkpoints_removed),
        ("queue entries removed", found.queue_entries_removed),
        ("started", _when(found.started_ms)),
        ("finished", _when(found.finished_ms)),
    ]
    if found.scan is not None:
        scan = found.scan
        rows += [
            ("searched", f"{scan.keys} keys, {scan.files} files, {scan.bytes} bytes"),
            ("found before", scan.found_before),
            ("found after", scan.found),
        ]
        if scan.not_searched:
            rows.append(("not searched", scan.not_searched))
    if found.failure:
        rows.append(("failure", found.failure))
    print_table(("erasure", found.bank), rows)
    print_table(
        ("bank", "ERASE at", "version", "erased ever", "digest", "replay"),
        [
            (
                one.bank,
                ", ".join(map(str, one.versions)) or "-",
                one.version,
                one.erase_count,
                shorten(one.digest),
                "equal" if one.replay_matches else "DIFFERS" if found.done else "not yet compared",
            )
            for one in found.banks
        ],
    )
    if not found.done:
        note(f"to look again: larimar erase --receipt {found.event_id} --bank {found.bank}")


def _when(time_ms: int) -> str:
    if not time_ms:
        return "-"
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds")


def history(
    fact_id: Annotated[str, typer.Argument(metavar="FACT_ID", help="The fact.")],
    bank: Bank = "default",
    target: Target = DEFAULT_TARGET,
    timeout: Timeout = 30.0,
    as_json: AsJson = False,
) -> None:
    """Every event of a fact, newest first."""
    with connect(target, timeout) as client:
        events = client.history(fact_id, bank=bank)
    if not events:
        raise NotFound(f"bank {bank!r} has no event of fact {fact_id!r}", "UNKNOWN_FACT")
    print_events(events, as_json)
