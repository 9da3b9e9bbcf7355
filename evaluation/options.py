"""Options that experiments share, and the bar that shows how far one is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

IN_PROCESS = "in-process"
DEFAULT_MODEL = str(Path(__file__).resolve().parent.parent / "models" / "larimar-small")

Data = Annotated[Path, typer.Option(help="File of the records.", exists=True, dir_okay=False)]
Limit = Annotated[int | None, typer.Option(help="The first N records only.", min=1)]
Out = Annotated[
    Path | None,
    typer.Option(help="Folder for records and report. [default: out/ and the report's name]"),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Drop records that --out already holds.")]
ModelPath = Annotated[str, typer.Option("--model", help="Model folder.")]
Detector = Annotated[
    str, typer.Option(help="esd or isd decides scope; by default as the model says.")
]
Target = Annotated[str, typer.Option(help="in-process, or HOST:PORT of a pipeline.")]
Seed = Annotated[int, typer.Option(help="Of the bootstrap intervals.", min=0)]
MaxTokens = Annotated[int, typer.Option(help="Generated tokens an answer.", min=1)]
AsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]

Advance = Callable[[int], None]
"""Told how many more records are done."""


@contextmanager
def progress_bar(title: str, total: int, done: int = 0, hidden: bool = False) -> Iterator[Advance]:
    """A bar on stderr with the time gone and the time to go."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=hidden) as progress:
        task = progress.add_task(title, total=total, completed=done)
        yield lambda more: progress.advance(task, more)
