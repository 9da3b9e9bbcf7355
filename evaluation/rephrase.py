"""Rephrasings: how often a wording that was never written finds its fact.

A bank holds F facts, each with W of its rephrasings beside its own prompt. The same unseen
rephrasings are asked whatever W is, so that what writing more of them brings can be read off. The
number of prompts in memory, F (1 + W), is what fills a memory of fixed size.

Source: [L] (arXiv 2403.11901) Figures 3 and 5, Table 13 (20 to 100 facts by 10 rephrasings).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import typer

from evaluation.data import EditRecord, read_rephrasings, with_true_targets
from evaluation.edit_tables import generated, in_scope, over, success
from evaluation.edits import Probe, fact_of, probes_at, row, written
from evaluation.frame import Frame, experiment
from evaluation.grids import (
    ALL_ADDRESSINGS,
    SHARES,
    SLOTS,
    Addressing,
    Slots,
    addressings,
    banks_note,
    counts,
    grid_table,
    label,
    slots_of,
)
from evaluation.plans import Instead, Plan
from evaluation.plots import Curve, draw_curves
from evaluation.report import Report, Table
from evaluation.systems import BASE, LARIMAR, Banked, View, opened
from larimar.errors import InvalidArgument
from larimar.payload import MAX_REPHRASINGS

NAME = "rephrase"
MEASURES = {"S": success, "generated": generated, "in_scope": in_scope}
METRICS = tuple(f"{group}_{name}" for group in ("edit", "unseen") for name in MEASURES)
FACTS, WRITTEN, UNSEEN = "20,40,60,80,100", "0,1,3,5,10", 5
TWO_REPHRASINGS = {"written_rephrasings": "0,1", "unseen": 1}
"""What CounterFact's own two rephrasings a fact allow."""
PLAN = Plan(
    files={"data": "counterfact_multi_rephrase.jsonl"},
    quick={
        "facts": "2,4",
        "written_rephrasings": "0,2",
        "unseen": 2,
        "slots": 16,
        "max_tokens": 8,
    },
    instead={"data": Instead("counterfact.json", quick=TWO_REPHRASINGS, full=TWO_REPHRASINGS)},
)

Facts = Annotated[str, typer.Option(help="Numbers of facts, rising, with commas.")]
Written = Annotated[
    str, typer.Option("--written", help="Numbers of written rephrasings a fact, rising.")
]
Unseen = Annotated[int, typer.Option(help="Rephrasings asked a fact, never written.", min=1)]


@dataclass(frozen=True)
class Cell:
    """One bank of the grid."""

    addressing: str
    facts: int
    written: int

    @property
    def key(self) -> str:
        """Its name among the kept records."""
        return f"{self.addressing}-{self.facts}x{self.written}"


@experiment(NAME)
def run(
    frame: Frame,
    facts: Facts = FACTS,
    written_rephrasings: Written = WRITTEN,
    unseen: Unseen = UNSEEN,
    addressing: Addressing = ALL_ADDRESSINGS,
    slots: Slots = SLOTS,
) -> Report:
    """Recall of unseen rephrasings against those written (Figures 3 and 5, Table 13).

    Example: larimar eval rephrase --data FILE --facts 20,100 --written 0,10
    """
    numbers = counts("--facts", facts)
    levels = counts("--written", written_rephrasings, least=0)
    grid = [
        Cell(name, count, level)
        for name in addressings(addressing)
        for count in numbers
        for level in levels
    ]
    read = with_true_targets(read_rephrasings(frame.data, frame.limit))
    records = usable(read.records, numbers[-1], levels[-1] + 1)
    settings: dict[str, Any] = {
        "facts": facts,
        "written": written_rephrasings,
        "unseen": unseen,
        "addressing": addressing,
        "slots": slots,
        "detector": frame.detector,
        "max_tokens": frame.max_tokens,
    }
    with opened(frame.target, frame.model, frame.detector) as system:
        run = frame.started(read, system.digest, settings | system.setup)
        ask = partial(_asked, first=levels[-1], unseen=unseen, max_tokens=frame.max_tokens)
        if BASE.name not in run.kept:
            run.kept.add(BASE.name, ask(system, records, BASE))
        for key, cell in run.missing("Rephrasings", {cell.key: cell for cell in grid}):
            some = records[: cell.facts]
            new = [fact_of(one, one.paraphrases[: cell.written]) for one in some]
            with (
                system.new_bank(cell.addressing, slots_of(cell.addressing, slots)) as bank,
                written(bank, new),
            ):
                run.kept.add(key, ask(bank, some, LARIMAR))
    rows = rows_of(grid, run.kept, slots, frame.seed)
    return run.report(
        "Rephrasings that were never written",
        rows,
        [_table(rows, name) for name in dict.fromkeys(cell.addressing for cell in grid)],
        [
            f"Recall of up to {unseen} rephrasings a fact that no bank ever held, generated "
            "exactly; W is the number of others that were written beside the fact's own prompt.",
            f"{banks_note(slots)} The grid of 20 to 100 facts by 10 rephrasings is that of [L] "
            "Table 13.",
        ],
        partial(_draw, rows=rows, level=levels[-1], slots=slots),
        {f"{NAME}-written": partial(_draw_written, rows=rows, facts=numbers[-1], slots=slots)},
        n=len(records),
    )


def usable(records: Sequence[EditRecord], facts: int, rephrasings: int) -> list[EditRecord]:
    """The first records that have rephrasings enough.

    Raises:
        InvalidArgument: too few of them have.
    """
    if rephrasings - 1 > MAX_REPHRASINGS:
        raise InvalidArgument(f"--written is at most {MAX_REPHRASINGS}")
    found = [record for record in records if len(record.paraphrases) >= rephrasings][:facts]
    if len(found) < facts:
        raise InvalidArgument(
            f"{len(found)} records have {rephrasings} rephrasings or more, --facts asks for "
            f"{facts}: write fewer, or give more data"
        )
    return found


def rows_of(
    grid: Sequence[Cell], kept: Mapping[str, Any], slots: int, seed: int
) -> list[dict[str, Any]]:
    """A row for each bank, and one for the base."""
    rows = []
    for cell in grid:
        where = {
            "addressing": cell.addressing,
            "slots": slots_of(cell.addressing, slots),
            "facts": cell.facts,
            "written": cell.written,
        }
        rows.append(row(LARIMAR.name, kept[cell.key], METRICS, seed) | where)
    return [*rows, row(BASE.name, kept[BASE.name], METRICS, seed)]


def _asked(
    system: Banked,
    records: Sequence[EditRecord],
    view: View,
    *,
    first: int,
    unseen: int,
    max_tokens: int,
) -> list[dict[str, float | None]]:
    """The metrics of each record: at its own prompt, and at rephrasings from `first` on."""
    prompts = [[record.prompt, *record.paraphrases[first : first + unseen]] for record in records]
    asked = [
        (record, prompt) for record, some in zip(records, prompts, strict=True) for prompt in some
    ]
    probes = iter(probes_at(system, asked, view, max_tokens))
    return [_metrics([next(probes) for _ in some]) for some in prompts]


def _metrics(probes: Sequence[Probe]) -> dict[str, float | None]:
    groups = {"edit": probes[:1], "unseen": probes[1:]}
    return {
        f"{group}_{name}": over(some, measure)
        for group, some in groups.items()
        for name, measure in MEASURES.items()
    }


def _table(rows: Sequence[Mapping[str, Any]], addressing: str) -> Table:
    some = [one for one in rows if one.get("addressing", addressing) == addressing]
    heads = [
        f"{one['facts']} x {one['written']}" if "facts" in one else one["system"] for one in some
    ]
    return grid_table(some, METRICS, heads, "facts x W", addressing)


def _curves(rows: Sequence[Mapping[str, Any]], axis: str, slots: int, **fixed: int) -> list[Curve]:
    """Recall of unseen rephrasings along an axis, a line for each addressing."""
    ours = [one for one in rows if "facts" in one]
    ours = [one for one in ours if all(one[name] == value for name, value in fixed.items())]
    curves = []
    for name in dict.fromkeys(one["addressing"] for one in ours):
        some = [one for one in ours if one["addressing"] == name]
        x = [one[axis] for one in some]
        recalled = [one["metrics"]["unseen_generated"] for one in some]
        curves.append(Curve(label(name, slots), x, recalled))
    [base] = [one for one in rows if one["system"] == BASE.name]
    along = curves[0].x
    plain = [base["metrics"]["unseen_generated"]] * len(along)
    return [*curves, Curve("base", along, plain, level=True)]


def _draw(figure: Any, *, rows: Sequence[Mapping[str, Any]], level: int, slots: int) -> None:
    draw_curves(
        figure,
        _curves(rows, "facts", slots, written=level),
        f"facts in memory, {level} rephrasings of each written",
        "unseen rephrasings recalled, generated (%)",
    )
    _finish(figure, rows, "facts")


def _draw_written(
    figure: Any, *, rows: Sequence[Mapping[str, Any]], facts: int, slots: int
) -> None:
    draw_curves(
        figure,
        _curves(rows, "written", slots, facts=facts),
        f"written rephrasings of each of {facts} facts",
        "unseen rephrasings recalled, generated (%)",
    )
    _finish(figure, rows, "written")


def _finish(figure: Any, rows: Sequence[Mapping[str, Any]], axis: str) -> None:
    axes = figure.axes[0]
    axes.set_ylim(*SHARES)
    axes.set_xticks(sorted({one[axis] for one in rows if axis in one}))
