"""A table of edits: records observed and kept one by one, then a row for each view."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation import metrics, paper
from evaluation.data import EditData, EditRecord
from evaluation.edits import (
    Measure,
    Observation,
    Probe,
    measured,
    observed,
    plain_note,
    plain_summary,
    row,
)
from evaluation.options import progress_bar
from evaluation.records import Records
from evaluation.report import Report, Table, cell, draw_rows, provenance
from evaluation.systems import View, opened


@dataclass(frozen=True)
class EditTable:
    """What a table of edits measures."""

    name: str
    """Stem of the report's files."""
    title: str
    metrics: Sequence[str]
    measure: Measure
    drawn: Sequence[str]
    """Metrics of the figure."""
    score_parts: Sequence[str] = ()
    """Metrics whose harmonic mean is the score; empty for no score."""
    paper: Mapping[str, Mapping[str, str]] | None = None
    """The paper's columns, metric to figure."""


def make(
    table: EditTable,
    data: EditData,
    records: Sequence[EditRecord],
    views: Sequence[View],
    *,
    out: Path,
    model: str,
    target: str,
    detector: str,
    batch: int | None,
    seed: int,
    max_tokens: int,
    fresh: bool,
    quiet: bool,
    **settings: Any,
) -> Report:
    """Runs what the records in `out` lack, and reports on all of them.

    Args:
        settings: others that belong into the report.

    Raises:
        InvalidArgument: no records, or a case id twice.
        FailedPrecondition: `out` holds records of another run.
    """
    settings |= {"detector": detector, "batch": batch, "max_tokens": max_tokens}
    names = [view.name for view in views]
    with opened(target, model, detector) as system:
        run = {
            "name": table.name,
            "data_sha256": data.sha256,
            "model_digest": system.digest,
            "rows": names,
            "batched": len(records) if batch else 0,
            **settings,
        }
        kept = Records(out, run, fresh)
        already = sum(record.case_id in kept for record in records)
        with progress_bar(table.title, len(records), already, hidden=quiet) as advance:
            for record, seen in observed(
                system,
                records,
                views,
                batch=batch,
                max_tokens=max_tokens,
                done=lambda one: one.case_id in kept,
            ):
                kept.add(record.case_id, measured(system, record, seen, table.measure))
                advance(1)
        body = provenance(
            table.name,
            data={
                "file": data.file,
                "form": data.form,
                "sha256": data.sha256,
                "skipped": data.skipped,
            },
            model_digest=system.digest,
            n=len(records),
            seed=seed,
            target="in-process" if target == "in-process" else "pipeline",
            **settings,
        )
    chosen = [kept[record.case_id] for record in records]
    rows = [_row(table, name, [one["rows"][name] for one in chosen], seed) for name in names]
    plain = plain_summary(chosen)
    body |= {"rows": rows, "plain_decoder": plain, "paper": table.paper or {}}
    notes = [
        "Percent; in brackets the 95 % bootstrap interval over records.",
        *([plain_note(plain)] if plain else []),
        *([f"{data.skipped} records without a target were left out."] if data.skipped else []),
        *(["The score is the harmonic mean of the three S."] if table.score_parts else []),
        *([paper.NOTE] if table.paper else []),
    ]
    return Report(
        table.name,
        f"{table.title}, {'single edits' if batch is None else f'{batch} facts at once'}",
        out,
        body,
        [_table(table, rows)],
        notes,
        lambda figure: draw_rows(figure, rows, table.drawn),
    )


def over(probes: Sequence[Probe], measure: Callable[[Probe], float]) -> float | None:
    """The mean of a measure over one record's probes; None without any."""
    return metrics.record_mean([measure(probe) for probe in probes])


def unchanged(ours: Observation, base: Observation | None) -> float | None:
    """The share of continued neighbours whose text is the base's, letter for letter."""
    if base is None:
        return None
    pairs = zip(ours.neighbors, base.neighbors, strict=True)
    return metrics.record_mean(
        [float(mine.text == plain.text) for mine, plain in pairs if mine.text is not None]
    )


def generated(probe: Probe) -> float:
    """1 where the generated answer is the new target."""
    return metrics.generated_match(probe.text or "", probe.target)


def _row(
    table: EditTable, name: str, values: Sequence[Mapping[str, float | None]], seed: int
) -> dict[str, Any]:
    found = row(name, values, table.metrics, seed)
    if table.score_parts:
        parts = [found["metrics"][part]["value"] for part in table.score_parts]
        known = [part for part in parts if part is not None]
        found["score"] = metrics.harmonic_score(*known) if len(known) == len(parts) else None
    return found


def _table(table: EditTable, rows: Sequence[Mapping[str, Any]]) -> Table:
    """A row a metric, a column a system, and the paper's columns beside them."""
    theirs = table.paper or {}
    lines = [
        [
            name,
            *(cell(one["metrics"][name]) for one in rows),
            *(figures.get(name, "") for figures in theirs.values()),
        ]
        for name in table.metrics
    ]
    if table.score_parts:
        scores = ["-" if one["score"] is None else f"{one['score']:.1f}" for one in rows]
        lines.append(["score", *scores, *("" for _ in theirs)])
    columns = ["metric", *(one["system"] for one in rows), *theirs]
    return Table(columns, lines)
