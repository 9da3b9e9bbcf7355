"""What commands share: their common options, and how they print."""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from larimar.errors import InvalidArgument

if TYPE_CHECKING:
    from larimar.client import Client
    from larimar.security import Security

DEFAULT_TARGET = "localhost:9000"
# Exit statuses; 130 is what a shell expects after Ctrl-C.
FAILED, USAGE, INTERRUPTED = 1, 2, 130
# A pipeline that is up accepts a connection at once; nobody waits longer for a typing error.
CONNECT_TIMEOUT_S = 2.0
# Where a command finds its API key and its files of TLS.
SECURITY = {
    "api_key": "LARIMAR_API_KEY",
    "tls_ca": "LARIMAR_TLS_CA",
    "tls_cert": "LARIMAR_TLS_CERT",
    "tls_key": "LARIMAR_TLS_KEY",
}
# A replay folds tens of thousands of events a second; this is for millions.
LONG_TIMEOUT_S = 600.0
# Columns of a table that is written to a file or a pipe.
PLAIN_WIDTH = 200

Target = Annotated[
    str,
    typer.Option("--target", envvar="LARIMAR_TARGET", help="HOST:PORT of the pipeline."),
]
Bank = Annotated[str, typer.Option("--bank", "-b", help="The bank.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON; errors too, on stderr.")]
At = Annotated[
    int, typer.Option("--at", min=0, metavar="VERSION", help="As of this version; 0: the newest.")
]
AllowStale = Annotated[
    bool,
    typer.Option(
        "--allow-stale", help="With the store down, answer from what a replica holds, and say so."
    ),
]
Timeout = Annotated[float, typer.Option("--timeout", min=0.001, help="Deadline in seconds.")]


def connect(target: str, timeout_s: float) -> Client:
    """A client for one command."""
    from larimar.client import connect

    try:
        return connect(
            target,
            timeout_s=timeout_s,
            connect_timeout_s=min(CONNECT_TIMEOUT_S, timeout_s),
            **shown_security(),
        )
    except InvalidArgument as error:
        raise misused(error) from None


def misused(error: InvalidArgument) -> Exception:
    """What a connection that cannot be made becomes: a wrong target is a wrong command line."""
    if error.reason in ("BAD_KEY", "BAD_TLS"):
        return error
    return typer.BadParameter(error.message, param_hint="'--target' / LARIMAR_TARGET")


def security() -> Security:
    """What a command shows and trusts. Raises: InvalidArgument, a file of TLS cannot be used."""
    from larimar.security import Security

    return Security(**shown_security())


def shown_security() -> dict[str, str | None]:
    """The fields of `larimar.security.Security` that the environment gives."""
    return {name: os.environ.get(variable) or None for name, variable in SECURITY.items()}


def console(stderr: bool = False) -> Console:
    """Where people read: without colour, and wide, when nobody looks."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(
        file=stream,
        highlight=False,
        markup=False,
        emoji=False,
        width=None if stream.isatty() else PLAIN_WIDTH,
    )


def printable(text: str) -> str:
    """The text with its control characters spelled out: a fact must not drive a terminal."""
    return "".join(
        char.encode("unicode_escape").decode()
        if unicodedata.category(char) == "Cc" and char not in "\n\t"
        else char
        for char in text
    )


def say(text: str, style: str = "") -> None:
    """A line for people."""
    console().print(Text(printable(text), style), soft_wrap=True)


def note(text: str, style: str = "dim") -> None:
    """A line for people, beside the output."""
    console(stderr=True).print(Text(printable(text), style), soft_wrap=True)


def dump(value: Any) -> str:
    """One line of JSON."""
    unicode_is_safe = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    return json.dumps(value, ensure_ascii=not unicode_is_safe)


def emit(value: Any) -> None:
    """A JSON value for programs, on its own line."""
    print(dump(value), flush=True)


def emit_error(code: str, message: str, as_json: bool) -> None:
    """An error, as the last line on stderr."""
    if as_json:
        print(dump({"error": {"code": code, "message": message}}), file=sys.stderr, flush=True)
    else:
        note(" ".join(message.split()), "bold red")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> None:
    """A table for people."""
    table = Table(title=title or None, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(str(cell))) for cell in row))
    console().print(table)


@contextmanager
def working(what: str) -> Iterator[None]:
    """Shows that something goes on, while it does."""
    with console(stderr=True).status(Text(what)):
        yield


@contextmanager
def progressing(what: str, as_json: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar with time left, told how much of how much is done; none where nobody looks."""
    screen = console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=screen,
        disable=not screen.is_terminal or (as_json and sys.stdout.isatty()),
    )
    with bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def shorten(digest: str) -> str:
    """The beginning of a digest, enough to tell two apart."""
    return digest[:12] or "-"
