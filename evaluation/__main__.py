"""``python -m evaluation NAME --data FILE``: a table of the paper, one command each.

An experiment is a module with a function `run`: its parameters are the command's options, its
docstring is the help, and it returns a `Report`. It is registered here in one line.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table as Shown

from evaluation import counterfact, perplexity, scope, zsre
from evaluation.report import Report
from larimar.errors import LarimarError

EXPERIMENTS: dict[str, Callable[..., Report]] = {
    "counterfact": counterfact.run,
    "zsre": zsre.run,
    "perplexity": perplexity.run,
    "scope": scope.run,
}

app = typer.Typer(add_completion=False, no_args_is_help=True)
_messages = Console(stderr=True)


@app.callback()
def evaluation() -> None:
    """Tables of the Larimar paper, one command each."""


def command(run: Callable[..., Report]) -> Callable[..., None]:
    """An experiment as a command: runs it, writes its report and shows it."""

    @functools.wraps(run)
    def wrapped(**options: Any) -> None:
        as_json = options["as_json"]
        try:
            report = run(**options)
        except LarimarError as error:
            _show_error(error, as_json)
            raise typer.Exit(1) from error
        written = report.write()
        if as_json:
            typer.echo(json.dumps(report.body, ensure_ascii=False))
        else:
            _show(report, written)

    return wrapped


def _show_error(error: LarimarError, as_json: bool) -> None:
    if as_json:
        document = {"error": {"code": error.reason, "message": error.message}}
        typer.echo(json.dumps(document), err=True)
    else:
        _messages.print(f"error: {error.message}", markup=False, soft_wrap=True)


def _show(report: Report, written: list[Path]) -> None:
    console = Console()
    for table in report.tables:
        shown = Shown(title=table.title or report.title)
        for place, name in enumerate(table.columns):
            shown.add_column(name, justify="right" if place else "left", no_wrap=not place)
        for row in table.rows:
            shown.add_row(*row)
        console.print(shown, markup=False)
    for note in report.notes:
        console.print(note, markup=False, soft_wrap=True)
    for path in written:
        console.print(f"wrote {path}", markup=False, soft_wrap=True)


for _name, _run in EXPERIMENTS.items():
    app.command(name=_name)(command(_run))


if __name__ == "__main__":
    app(prog_name="python -m evaluation")
