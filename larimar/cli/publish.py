"""Commands about edit events: publish, and the dead letters."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from larimar.cli.console import (
    DEFAULT_TARGET,
    AsJson,
    Target,
    Timeout,
    connect,
    emit,
    note,
    print_table,
    say,
)
from larimar.cli.files import SHOWN_FAILURES, read_lines
from larimar.client_publishing import DeadLetter, FailedPublish
from larimar.edit_events import from_json
from larimar.errors import InvalidArgument, LarimarError

CALL_LETTERS = 500
"""Letters that one call moves or drops: the gateway takes no more."""

dead_app = typer.Typer(
    no_args_is_help=True,
    help="Events of the inbox that could not be applied.",
    epilog="Example: larimar dead list",
)
LetterIds = Annotated[
    list[str] | None, typer.Argument(metavar="ID ...", help="Letters; all with --all.")
]
All = Annotated[bool, typer.Option("--all", help="Every dead letter.")]


def register(app: typer.Typer) -> None:
    """Adds publish and dead."""
    app.command(epilog="Example: larimar publish events.jsonl --json")(publish)
    app.add_typer(dead_app, name="dead")


def publish(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="CloudEvents in JSON, one a line; - reads the input."),
    ],
    target: Target = DEFAULT_TARGET,
    timeout: Timeout = 30.0,
    as_json: AsJson = False,
) -> None:
    """Publishes edit events from a file, a result for each; an event is taken once by its id."""
    taken = failed = 0

    def fail(line: int, error: LarimarError, event_id: str = "") -> None:
        nonlocal failed
        failed += 1
        if as_json:
            shown = {"code": error.reason, "message": error.message}
            emit({"error": shown, "line": line} | ({"id": event_id} if event_id else {}))
        elif failed <= SHOWN_FAILURES:
            note(f"line {line}: {error.message}", "red")

    with ExitStack() as stack:
        stream = sys.stdin.buffer if str(file) == "-" else stack.enter_context(file.open("rb"))
        client = stack.enter_context(connect(target, timeout))
        sent: deque[int] = deque()

        def good_events() -> Iterator[bytes]:
            for number, line in read_lines(stream):
                try:
                    from_json(line.strip())
                except InvalidArgument as error:
                    fail(number, error)
                    continue
                sent.append(number)
                yield line.strip()

        for result in client.publish_many(good_events(), timeout_s=timeout):
            number = sent.popleft()
            if isinstance(result, FailedPublish):
                fail(number, result.error, result.id)
                continue
            taken += 1
            if as_json:
                emit(asdict(result))
    if not as_json:
        say(f"{file}: {taken} taken, {failed} refused", "bold" if failed else "")
    if failed:
        raise typer.Exit(1)


@dead_app.command(name="list", epilog="Example: larimar dead list --json")
def list_letters(
    target: Target = DEFAULT_TARGET, timeout: Timeout = 30.0, as_json: AsJson = False
) -> None:
    """Lists dead letters with the reason, oldest first; --json shows the events too."""
    with connect(target, timeout) as client:
        letters = list(client.dead_letters())
    if as_json:
        emit({"letters": [_letter_json(one) for one in letters]})
        return
    print_table(
        ("id", "reason", "tries", "bytes", "message"),
        [(one.letter_id, one.reason, one.tries, len(one.event), one.message) for one in letters],
    )


@dead_app.command(epilog="Example: larimar dead requeue --all")
def requeue(
    letter_ids: LetterIds = None,
    every: All = False,
    target: Target = DEFAULT_TARGET,
    timeout: Timeout = 30.0,
    as_json: AsJson = False,
) -> None:
    """Puts dead letters back at the end of the inbox. Those that keep no event stay."""
    with connect(target, timeout) as client:
        chosen = _chosen(client, letter_ids, every)
        moved = sum(client.requeue_dead_letters(part) for part in _parts(chosen))
    emit({"requeued": moved}) if as_json else say(f"{moved} requeued")


@dead_app.command(epilog="Example: larimar dead drop 1700000000000-0")
def drop(
    letter_ids: LetterIds = None,
    every: All = False,
    target: Target = DEFAULT_TARGET,
    timeout: Timeout = 30.0,
    as_json: AsJson = False,
) -> None:
    """Throws dead letters away."""
    with connect(target, timeout) as client:
        chosen = _chosen(client, letter_ids, every)
        dropped = sum(client.drop_dead_letters(part) for part in _parts(chosen))
    emit({"dropped": dropped}) if as_json else say(f"{dropped} dropped")


def _chosen(client: Any, letter_ids: list[str] | None, every: bool) -> list[str]:
    if every == bool(letter_ids):
        raise typer.BadParameter("give letter ids, or --all")
    return [one.letter_id for one in client.dead_letters()] if every else letter_ids or []


def _parts(letter_ids: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(letter_ids), CALL_LETTERS):
        yield letter_ids[start : start + CALL_LETTERS]


def _letter_json(letter: DeadLetter) -> dict[str, Any]:
    return {**asdict(letter), "event": letter.event.decode(errors="replace")}
