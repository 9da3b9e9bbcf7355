"""Commands about documents: ingest, recall, dream."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from larimar.cli.console import (
    DEFAULT_TARGET,
    AsJson,
    Bank,
    Target,
    Timeout,
    connect,
    console,
    emit,
    note,
    print_table,
    say,
    working,
)
from larimar.errors import InvalidArgument
from larimar.passages import document_name
from larimar.results import IngestResult

At = Annotated[int, typer.Option(min=0, help="As of this version; 0: the newest.")]
MaxTokens = Annotated[int, typer.Option(min=0, help="0: the service's default.")]
Temperature = Annotated[float, typer.Option(min=0.0, help="0: greedy.")]
Seed = Annotated[int, typer.Option(min=0, help="For what is drawn at random.")]

EXCERPT = 160
"""Characters of a passage that a table shows; --json gives the whole text."""


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command(epilog="Example: larimar ingest report.txt --bank report")(ingest)
    app.command(epilog="Example: larimar recall 'The bridge was opened in' --bank report")(recall)
    app.command(epilog="Example: larimar dream --bank report --count 5 --seed 0")(dream)


def ingest(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A text in UTF-8; - is stdin.")],
    document: Annotated[
        str | None, typer.Option(help="Names the document; made from the file's when not given.")
    ] = None,
    passage_words: Annotated[
        int, typer.Option(min=0, help="Most words of a passage; 0: the service's default.")
    ] = 0,
    bank: Bank = "default",
    target: Target = DEFAULT_TARGET,
    timeout: Timeout = 60.0,
    as_json: AsJson = False,
) -> None:
    """Writes a document as passages. The same text again changes nothing; another replaces it."""
    text = read_text(file)
    named = document or document_name("stdin" if str(file) == "-" else file.name)
    screen = console(stderr=True)
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[passages]} passages"),
        TimeRemainingColumn(),
        console=screen,
        disable=not screen.is_terminal or (as_json and sys.stdout.isatty()),
        redirect_stdout=False,
        redirect_stderr=False,
    )
    result: IngestResult | None = None
    with connect(target, timeout) as client, progress:
        task = progress.add_task("ingesting", total=len(text), passages=0)
        for result in client.ingest_pieces(text, named, bank=bank, passage_words=passage_words):
            progress.update(task, completed=result.characters, passages=result.passages)
    assert result is not None
    if as_json:
        emit(asdict(result))
        return
    say(
        f"ingested: document {result.document}, {result.passages} passages "
        f"({result.duplicates} were there already), bank {result.bank} at version {result.version}"
    )


def recall(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="The beginning that is continued.")],
    document: Annotated[str, typer.Option(help="Read only this document.")] = "",
    at: At = 0,
    max_tokens: MaxTokens = 0,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    bank: Bank = "default",
    target: Target = DEFAULT_TARGET,
    timeout: Timeout = 30.0,
    as_json: AsJson = False,
) -> None:
    """Answers from the passages of a bank, and shows those that the answer rests on."""
    with connect(target, timeout) as client, working("reading passages"):
        result = client.recall(
            query,
            bank=bank,
            document=document,
            at=at,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
        )
    if as_json:
        emit(asdict(result))
        return
    say(result.text)
    print_table(
        ("weight", "document", "offset", "passage"),
        [
            (f"{one.weight:.3f}", one.document or "-", one.offset, excerpt(one.text))
            for one in result.passages
        ],
    )
    note(f"{result.levels} levels; bank {result.bank} at version {result.version}")


def dream(
    count: Annotated[int, typer.Option(min=0, help="How many; 0: the service's default.")] = 0,
    prompt: Annotated[str, typer.Option(help="What each text begins with.")] = "",
    at: At = 0,
    max_tokens: MaxTokens = 0,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    bank: Bank = "default",
    target: Target = DEFAULT_TARGET,
    timeout: Timeout = 60.0,
    as_json: AsJson = False,
) -> None:
    """Texts that a memory generates unasked: decoded from what random addresses read."""
    with connect(target, timeout) as client, working("dreaming"):
        result = client.dream(
            count,
            bank=bank,
            seed=seed,
            prompt=prompt,
            at=at,
            max_tokens=max_tokens,
            temperature=temperature,
        )
    if as_json:
        emit(asdict(result))
        return
    for text in result.texts:
        say(" ".join(text.split()))
    note(f"bank {result.bank} at version {result.version}")


def read_text(file: Path) -> str:
    """The text of a file, or of stdin for ``-``.

    Raises:
        typer.BadParameter: there is no such file.
        InvalidArgument: it is not UTF-8; the message says where.
    """
    if str(file) == "-":
        content = sys.stdin.buffer.read()
    elif file.is_dir() or not file.exists():
        raise typer.BadParameter(f"there is no file {file}", param_hint="FILE")
    else:
        content = file.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InvalidArgument(f"{file}:{line}: not UTF-8 text", "NOT_UTF8") from None


def excerpt(text: str) -> str:
    """The beginning of a passage, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= EXCERPT else line[:EXCERPT].rstrip() + " ..."
