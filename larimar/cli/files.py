"""A file of facts, one JSON object a line: read, checked and written while it is read."""

from __future__ import annotations

import json
import sys
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from larimar.cli.console import console, emit, note, say
from larimar.errors import Conflict, InvalidArgument, LarimarError
from larimar.results import Edit, FailedWrite

if TYPE_CHECKING:
    from larimar.client import Client

# A line above this could not be sent: it is the limit of a message.
MAX_LINE_BYTES = 8 * 2**20
# Failures that are shown to people; --json shows all.
SHOWN_FAILURES = 20

_TEXT_FIELDS = ("prompt", "answer", "id", "event_id")
_FIELDS = (*_TEXT_FIELDS, "rephrasings")


def parse_json(line: bytes) -> Any:
    """The JSON value on a line; raises InvalidArgument saying why there is none."""
    if len(line) > MAX_LINE_BYTES:
        raise InvalidArgument(f"longer than {MAX_LINE_BYTES} bytes", "LINE_TOO_LONG")
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InvalidArgument(
            f"not UTF-8: byte 0x{line[error.start]:02x} at column {error.start + 1}", "NOT_UTF8"
        ) from None
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"not JSON: {error}", "NOT_JSON") from None


def parse_line(line: bytes) -> dict[str, Any]:
    """The fact on a line; raises InvalidArgument saying what is wrong with it."""
    fact = parse_json(line)
    if not isinstance(fact, dict):
        raise InvalidArgument('not a JSON object with "prompt" and "answer"', "BAD_FACT")
    for name in ("prompt", "answer"):
        if name not in fact:
            raise InvalidArgument(f'field "{name}" is missing', "BAD_FACT")
    for name, value in fact.items():
        if name not in _FIELDS:
            raise InvalidArgument(
                f'unknown field "{name}"; known are {", ".join(_FIELDS)}', "BAD_FACT"
            )
        texts = value if name == "rephrasings" else [value]
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            wanted = "a list of texts" if name == "rephrasings" else "a text"
            raise InvalidArgument(f'field "{name}" must be {wanted}', "BAD_FACT")
        if any("\ud800" <= char <= "\udfff" for text in texts for char in text):
            raise InvalidArgument(f'field "{name}" holds half a surrogate pair', "BAD_FACT")
    return fact


def read_lines(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, with their numbers from 1; of a huge one, the beginning."""
    number = 0
    while line := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        rest = line
        while len(rest) > MAX_LINE_BYTES and not rest.endswith(b"\n"):
            rest = stream.readline(MAX_LINE_BYTES + 1)
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if line.strip():
            yield number, line


class _Report:
    """Counts outcomes, and shows each as it comes."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.counts: Counter[str] = Counter()

    def written(self, edit: Edit) -> None:
        self.counts["duplicates" if edit.duplicate else "written"] += 1
        if self.as_json:
            from larimar.cli.facts import edit_json

            emit(edit_json(edit))

    def failed(self, line: int, error: LarimarError, ids: dict[str, str]) -> None:
        self.counts["conflicts" if isinstance(error, Conflict) else "failed"] += 1
        if self.as_json:
            shown = {"code": error.reason, "message": error.message}
            emit({"error": shown, "line": line, **ids})
            return
        failures = self.counts["conflicts"] + self.counts["failed"]
        if failures <= SHOWN_FAILURES:
            note(f"line {line}: {error.message}", "red")
        elif failures == SHOWN_FAILURES + 1:
            note("more lines failed; --json shows them all", "red")

    def summary(self) -> str:
        names = ("written", "duplicates", "conflicts", "failed")
        return ", ".join(f"{name} {self.counts[name]}" for name in names)

    @property
    def ok(self) -> bool:
        return not self.counts["conflicts"] and not self.counts["failed"]


def write_file(client: Client, file: Path, bank: str, as_json: bool) -> None:
    """Writes every good line of a file and reports every bad one.

    Raises:
        typer.Exit: with status 1, when a line was not written; the others are.
    """
    report = _Report(as_json)
    with ExitStack() as stack:
        stream = sys.stdin.buffer if str(file) == "-" else stack.enter_context(file.open("rb"))
        total = _count_lines(stream) if stream.seekable() else None
        bar = stack.enter_context(_progress(as_json))
        task = bar.add_task("writing", total=total, rate=0.0)
        sent: deque[int] = deque()

        def good_facts() -> Iterator[dict[str, Any]]:
            for number, line in read_lines(stream):
                try:
                    fact = parse_line(line)
                except InvalidArgument as error:
                    report.failed(number, error, {})
                    bar.advance(task)
                    continue
                sent.append(number)
                yield fact

        for result in client.write_many(good_facts(), bank=bank):
            number = sent.popleft()
            if isinstance(result, FailedWrite):
                ids = {"fact_id": result.fact_id, "event_id": result.event_id}
                report.failed(number, result.error, {k: v for k, v in ids.items() if v})
            else:
                report.written(result)
            bar.update(task, advance=1, rate=bar.tasks[0].finished_speed or bar.tasks[0].speed or 0)
    if not as_json:
        say(f"{file}: {report.summary()}", "" if report.ok else "bold")
    if not report.ok:
        raise typer.Exit(1)


def _count_lines(stream: BinaryIO) -> int:
    start = stream.tell()
    count = sum(1 for _ in read_lines(stream))
    stream.seek(start)
    return count


def _progress(as_json: bool) -> Progress:
    """A bar with rate and time left; none where nobody looks, or where it would mix with JSON."""
    screen = console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.0f} facts/s"),
        TimeRemainingColumn(),
        console=screen,
        disable=not screen.is_terminal or (as_json and sys.stdout.isatty()),
        redirect_stdout=False,
        redirect_stderr=False,
    )
