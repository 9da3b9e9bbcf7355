"""``python -m evaluation NAME --data FILE``: a table of the paper, one command each."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

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
from rich.table import Table

import larimar
from evaluation import counterfact as protocol
from evaluation.data import read_records, with_fewer_probes
from larimar.errors import LarimarError, Unavailable

IN_PROCESS = "in-process"
DEFAULT_MODEL = str(Path(__file__).resolve().parent.parent / "models" / "larimar-small")

app = typer.Typer(add_completion=False, no_args_is_help=True)
_messages = Console(stderr=True)


class Mode(StrEnum):
    """How many edits hold at once."""

    single = "single"
    batch = "batch"


class InProcess:
    """A model of this process as a system; with ``memory=False`` its plain decoder."""

    def __init__(self, model: Any, memory: bool = True) -> None:
        self._model, self._memory = model, memory

    def write(
        self, prompt: str, answer: str, fact_id: str, rephrasings: Sequence[str] = ()
    ) -> None:
        """Writes a fact into the model's own memory."""
        self._model.write(prompt, answer, fact_id=fact_id, rephrasings=rephrasings)

    def forget(self, fact_id: str) -> None:
        """Removes a fact's contribution."""
        self._model.forget(fact_id)

    def score(self, prompt: str, candidates: Sequence[str]) -> Sequence[protocol.Candidate]:
        """Log probabilities of the candidates."""
        return self._model.score(prompt, candidates, memory=self._memory).candidates

    def ask(self, prompt: str, max_tokens: int) -> protocol.Generated:
        """The greedy continuation."""
        return self._model.ask(prompt, max_tokens=max_tokens, memory=self._memory)

    def ask_many(self, prompts: Sequence[str], max_tokens: int) -> Sequence[protocol.Generated]:
        """Greedy continuations, decoded together."""
        return self._model.ask_many(prompts, max_tokens=max_tokens, memory=self._memory)


class Remote:
    """A bank of a running pipeline as a system; with ``memory=False`` its plain decoder."""

    def __init__(self, client: Any, bank: str, memory: bool = True) -> None:
        self._client, self._bank, self._no_memory = client, bank, not memory

    def write(
        self, prompt: str, answer: str, fact_id: str, rephrasings: Sequence[str] = ()
    ) -> None:
        """Writes a fact into the bank."""
        self._client.write(
            prompt, answer, bank=self._bank, fact_id=fact_id, rephrasings=rephrasings
        )

    def forget(self, fact_id: str) -> None:
        """Removes a fact's contribution."""
        self._client.forget(fact_id, bank=self._bank)

    def score(self, prompt: str, candidates: Sequence[str]) -> Sequence[protocol.Candidate]:
        """Log probabilities of the candidates."""
        return self._client.score(
            prompt, candidates, bank=self._bank, no_memory=self._no_memory
        ).candidates

    def ask(self, prompt: str, max_tokens: int) -> protocol.Generated:
        """The greedy continuation."""
        return self._client.ask(
            prompt, bank=self._bank, max_tokens=max_tokens, no_memory=self._no_memory
        )


@contextmanager
def systems(target: str, model: str) -> Iterator[tuple[protocol.System, protocol.Base, str]]:
    """The system, its base and the model digest: of a model loaded here, or of a pipeline.

    At a pipeline everything happens in a bank of its own, deleted at the end.

    Raises:
        Unavailable: nothing answers at the target.
    """
    if target == IN_PROCESS:
        loaded = larimar.load(model)
        yield InProcess(loaded), InProcess(loaded, memory=False), loaded.folder.model_digest
        return
    bank = f"evaluation-{uuid.uuid4().hex[:12]}"
    with larimar.connect(target) as client:
        digest = client.status().model_digest
        client.create_bank(bank)
        try:
            yield Remote(client, bank), Remote(client, bank, memory=False), digest
        finally:
            try:
                client.delete_bank(bank)
            except Unavailable:
                _messages.print(f"bank {bank} is left behind at {target}: it no longer answers")


@app.callback()
def evaluation() -> None:
    """Tables of the Larimar paper, one command each."""


@app.command()
def counterfact(
    data: Annotated[
        Path,
        typer.Option(
            help="Records: CounterFact, EasyEdit or many-rephrasings form.",
            exists=True,
            dir_okay=False,
        ),
    ],
    limit: Annotated[int | None, typer.Option(help="The first N records only.", min=1)] = None,
    out: Annotated[Path, typer.Option(help="Folder for the reports.")] = Path("out"),
    model: Annotated[str, typer.Option(help="Model folder or name.")] = DEFAULT_MODEL,
    target: Annotated[str, typer.Option(help="in-process, or HOST:PORT.")] = IN_PROCESS,
    mode: Annotated[Mode, typer.Option(help="Edits at once: one, or all.")] = Mode.single,
    seed: Annotated[int, typer.Option(help="Of the bootstrap intervals.", min=0)] = 0,
    max_tokens: Annotated[
        int, typer.Option(help="Generated tokens an answer.", min=1)
    ] = protocol.MAX_TOKENS,
    probes: Annotated[
        int | None, typer.Option(help="At most N paraphrases and N neighbours a record.", min=1)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Edits, paraphrases and neighbours of CounterFact, beside the base model (Table 2).

    Example: python -m evaluation counterfact --data counterfact.jsonl --limit 100
    """
    try:
        read = read_records(data, limit)
        records = with_fewer_probes(read.records, probes) if probes else read.records
        with systems(target, model) as (system, base, digest), _bar(len(records), as_json) as bar:
            rows = protocol.run(
                system,
                base,
                records,
                mode=mode.value,
                seed=seed,
                max_tokens=max_tokens,
                progress=bar,
            )
            report = protocol.report(
                rows,
                read,
                mode=mode.value,
                seed=seed,
                model_digest=digest,
                max_tokens=max_tokens,
                probes=probes,
            )
    except LarimarError as error:
        if as_json:
            typer.echo(
                json.dumps({"error": {"code": error.reason, "message": error.message}}), err=True
            )
        else:
            _messages.print(f"error: {error.message}", markup=False, soft_wrap=True)
        raise typer.Exit(1) from error
    written = _write(report, out)
    if as_json:
        typer.echo(json.dumps(report, ensure_ascii=False))
    else:
        _show(report, written)


@contextmanager
def _bar(total: int, hidden: bool) -> Iterator[Any]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_messages, disable=hidden) as progress:
        tasks: dict[str, Any] = {}

        def advance(stage: str, done: int) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=total)
            progress.update(tasks[stage], completed=done)

        yield advance


def _write(report: dict[str, Any], out: Path) -> list[Path]:
    out.mkdir(parents=True, exist_ok=True)
    stem = f"{report['name']}-{report['mode']}"
    texts = {
        out / f"{stem}.json": json.dumps(report, ensure_ascii=False, indent=2) + "\n",
        out / f"{stem}.md": protocol.markdown(report),
    }
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    return list(texts)


def _show(report: dict[str, Any], written: list[Path]) -> None:
    table = Table(title=f"CounterFact, {report['mode']} edits, {report['n']} records")
    table.add_column("metric")
    for row in report["rows"]:
        table.add_column(row["system"], justify="right")
    for name in protocol.METRICS:
        table.add_row(name, *(protocol.cell(row["metrics"][name]) for row in report["rows"]))
    console = Console()
    console.print(table, markup=False)
    for path in written:
        console.print(f"wrote {path}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    app(prog_name="python -m evaluation")
