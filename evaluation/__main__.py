"""``python -m evaluation NAME --data FILE``: a table of the paper, one command each.

An experiment is a module with four names. `run`: its parameters are the command's options, its
docstring is the help, and it returns a `Report`. `NAME`, `METRICS` and `PLAN` are described in
evaluation/plans.py. It is registered here in one line, for itself and for `all`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table as Shown

from evaluation import (
    ablations,
    batch,
    counterfact,
    every,
    forget,
    leakage,
    longcontext,
    noise,
    perplexity,
    rephrase,
    scope,
    sequential,
    speed,
    zsre,
)
from evaluation.options import DEFAULT_MODEL, AsJson, Fresh, ModelPath, Seed
from evaluation.plans import Experiment
from evaluation.report import Report, Table
from larimar.errors import LarimarError

EXPERIMENTS: tuple[Experiment, ...] = (
    counterfact,
    zsre,
    sequential,
    batch,
    rephrase,
    forget,
    leakage,
    longcontext,
    noise,
    speed,
    ablations,
    scope,
    perplexity,
)

app = typer.Typer(add_completion=False, no_args_is_help=True)
_messages = Console(stderr=True)

DataFolder = Annotated[
    Path,
    typer.Option(
        "--data-dir",
        help="Folder with the experiments' files, in it or below.",
        envvar="LARIMAR_DATA",
        exists=True,
        file_okay=False,
    ),
]
Quick = Annotated[bool, typer.Option("--quick", help="Each experiment small.")]
Only = Annotated[list[str] | None, typer.Option(help="That experiment; may be given again.")]


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
            written = report.write()
        except LarimarError as error:
            _show_error(error, as_json)
            raise typer.Exit(1) from error
        if as_json:
            typer.echo(json.dumps(report.body, ensure_ascii=False))
        else:
            _show(report, written)

    return wrapped


@app.command(name=every.NAME)
def run_all(
    data_dir: DataFolder,
    quick: Quick = False,
    only: Only = None,
    out: Annotated[Path, typer.Option(help="Folder for all reports.")] = Path("out/all"),
    model: ModelPath = DEFAULT_MODEL,
    seed: Seed = 0,
    fresh: Fresh = False,
    as_json: AsJson = False,
) -> None:
    """Every experiment, one after the other; exit status 1 if one failed.

    Example: larimar eval all --quick --data-dir FOLDER
    """
    names = [one.NAME for one in EXPERIMENTS]
    unknown = sorted(set(only or ()) - set(names))
    if unknown:
        raise typer.BadParameter(f"no experiment {unknown[0]}; there are {', '.join(names)}")
    outcomes = every.run_all(
        [one for one in EXPERIMENTS if not only or one.NAME in only],
        data_dir=data_dir,
        out=out,
        quick=quick,
        options={"model": model, "seed": seed, "fresh": fresh, "as_json": as_json},
        quiet=as_json,
    )
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in outcomes], ensure_ascii=False))
    else:
        _show_table(every.table(outcomes), "Every experiment")
    if not all(one.ok for one in outcomes):
        raise typer.Exit(1)


def _show_error(error: LarimarError, as_json: bool) -> None:
    if as_json:
        document = {"error": {"code": error.reason, "message": error.message}}
        typer.echo(json.dumps(document), err=True)
    else:
        _messages.print(f"error: {error.message}", markup=False, soft_wrap=True)


def _show(report: Report, written: list[Path]) -> None:
    console = Console()
    for table in report.tables:
        _show_table(table, report.title)
    for note in report.all_notes():
        console.print(note, markup=False, soft_wrap=True)
    for path in written:
        console.print(f"wrote {path}", markup=False, soft_wrap=True)


def _show_table(table: Table, title: str) -> None:
    shown = Shown(title=table.title or title)
    for place, name in enumerate(table.columns):
        shown.add_column(name, justify="right" if place else "left", no_wrap=not place)
    for row in table.rows:
        shown.add_row(*row)
    Console().print(shown, markup=False)


for _one in EXPERIMENTS:
    app.command(name=_one.NAME)(command(_one.run))


if __name__ == "__main__":
    app(prog_name="python -m evaluation")
