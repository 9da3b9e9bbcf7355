"""A table of edits: records observed and kept one by one, then a row for each view."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evaluation import metrics
from evaluation.baselines.beside import NONE, Beside, Wanted, beside
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
from evaluation.frame import Frame
from evaluation.plots import draw_rows
from evaluation.report import Report, metric_table
from evaluation.systems import View, opened


@dataclass(frozen=True)
class EditTable:
    """What a table of edits measures."""

    name: str
    """Of the experiment."""
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
    frame: Frame,
    data: EditData,
    records: Sequence[EditRecord],
    views: Sequence[View],
    *,
    batch: int | None,
    baselines: Wanted = NONE,
    **more: Any,
) -> Report:
    """Runs what the folder of the report lacks, and reports on all records.

    Args:
        baselines: other methods, a row each after those of the views.
        more: settings that belong into the report.

    Raises:
        InvalidArgument: no records, or a case id twice.
        FailedPrecondition: the folder holds records of another run.
    """
    settings = {
        **more,
        "detector": frame.detector,
        "batch": batch,
        "max_tokens": frame.max_tokens,
        **baselines.settings(),
    }
    ends = {name: baselines.end(name, len(records), batch) for name in baselines.names}
    ends = {**{view.name: len(records) for view in views}, **ends}
    names = [name for name, end in ends.items() if end]
    portions = baselines.portions(len(records), batch)
    with opened(frame.target, frame.model, frame.detector, dtype=baselines.dtype) as alone:
        system = beside(alone, baselines)
        run = frame.started(
            data,
            system.digest,
            settings | system.setup,
            name=f"{table.name}-{'single' if batch is None else f'batch-{batch}'}",
            rows=names,
            batched=len(records) if batch else 0,
        )
        kept = run.kept
        already = sum(record.case_id in kept for record in records)
        with frame.bar(table.title, len(records), already) as advance:
            for some, others in portions or [(slice(0), [])]:
                for record, seen in observed(
                    system.only(others) if isinstance(system, Beside) else system,
                    records[some],
                    [*views, *map(View, others)],
                    batch=batch,
                    max_tokens=frame.max_tokens,
                    done=lambda one: one.case_id in kept,
                ):
                    kept.add(record.case_id, measured(system, record, seen, table.measure))
                    advance(1)
    chosen = [kept[record.case_id] for record in records]
    rows = [
        scored_row(table, name, [one["rows"][name] for one in chosen[: ends[name]]], frame.seed)
        for name in names
    ]
    plain = plain_summary(chosen)
    shown = [*table.metrics, *(["score"] if table.score_parts else [])]
    return run.report(
        f"{table.title}, {'single edits' if batch is None else f'{batch} facts at once'}",
        rows,
        [metric_table(rows, shown, table.paper)],
        [
            "Percent; in brackets the 95 % bootstrap interval over records.",
            *([plain_note(plain)] if plain else []),
            *([f"{data.skipped} records without a target were left out."] if data.skipped else []),
            *(["The score is the harmonic mean of the three S."] if table.score_parts else []),
            *baselines.limits_note("the first records, whole batches of them only"),
        ],
        lambda figure: draw_rows(figure, rows, table.drawn),
        n=len(records),
        baselines=list(baselines.names),
        plain_decoder=plain,
        paper=table.paper or {},
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


def success(probe: Probe) -> float:
    """1 where the new target is more probable than the true one."""
    return metrics.success(probe.new.token_logprobs, probe.true.token_logprobs)


def magnitude(probe: Probe) -> float:
    """P(new) - P(true)."""
    return metrics.magnitude(probe.new.token_logprobs, probe.true.token_logprobs)


def argmax(probe: Probe) -> float:
    """1 where every token of the new target is the most probable one, teacher-forced."""
    return metrics.argmax_match(probe.new.token_is_argmax)


def f1(probe: Probe) -> float:
    """Token F1 of the generated answer."""
    return metrics.generated_f1(probe.text or "", probe.target)


def in_scope(probe: Probe) -> float:
    """1 where scope took the prompt in."""
    return float(probe.in_scope)


def scored_row(
    table: EditTable, name: str, values: Sequence[Mapping[str, float | None]], seed: int
) -> dict[str, Any]:
    """A row with the harmonic score, where the table has one."""
    found = row(name, values, table.metrics, seed)
    if table.score_parts:
        parts = [found["metrics"][part]["value"] for part in table.score_parts]
        known = [part for part in parts if part is not None]
        score = metrics.harmonic_score(*known) if len(known) == len(parts) else None
        found["metrics"]["score"] = metrics.exactly(score, len(values)).to_json()
    return found
