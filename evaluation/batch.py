"""Batched edits: how recall holds when N facts are in one bank at once.

The same records are asked at every N, so that sizes are compared on equal questions: they are
written in groups of N, filled up with further facts. Neighbours whose subject is edited by another
fact of the group are left out.

Source: [L] (arXiv 2403.11901) Figures 2 and 4.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from evaluation import paper
from evaluation.alone import alone
from evaluation.baselines.beside import Baselines, Demonstrations, wanted
from evaluation.counterfact import PROBED, Probes, record_metrics
from evaluation.data import (
    EditRecord,
    read_records,
    with_fewer_probes,
    with_true_targets,
)
from evaluation.edits import observed, row
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
    label,
    slots_of,
)
from evaluation.plans import Instead, Plan
from evaluation.plots import Curve, draw_curves
from evaluation.records import Records
from evaluation.report import Report, Table, metric_table
from evaluation.systems import BASE, LARIMAR, Remembering, View, opened
from larimar.errors import InvalidArgument

NAME = "batch"
METRICS = PROBED
SIZES = "1,16,64,256,512,1024,2048,4096"
ASKED = 200
DRAWN = {
    "edit_generated": "edits recalled, generated (%)",
    "edit_S": "edits recalled, S (%)",
    "paraphrase_generated": "paraphrases recalled, generated (%)",
    "paraphrase_S": "paraphrases recalled, S (%)",
    "neighborhood_S": "neighbourhood S (%)",
    "neighborhood_unchanged": "neighbours unchanged (%)",
}
PLAN = Plan(
    files={"data": "counterfact_original_form_2000.jsonl", "fill": "counterfact-train.json"},
    quick={
        "sizes": "1,8,32",
        "asked": 4,
        "slots": 16,
        "probes": 1,
        "max_tokens": 8,
        "baselines": "prompt:8,rag,ft:8",
    },
    full={"baselines": "prompt:256,rag,ike:64,ft:256,ft_l:256"},
    instead={"data": Instead("counterfact.json", full={"limit": 2000})},
)

Sizes = Annotated[str, typer.Option(help="Numbers of facts, rising, with commas.")]
Asked = Annotated[int, typer.Option(help="Records asked at each number of facts.", min=1)]
Fill = Annotated[
    Path | None,
    typer.Option(help="File of further facts that only fill the bank.", dir_okay=False),
]


@experiment(NAME)
def run(
    frame: Frame,
    fill: Fill = None,
    sizes: Sizes = SIZES,
    asked: Asked = ASKED,
    probes: Probes = 2,
    addressing: Addressing = ALL_ADDRESSINGS,
    slots: Slots = SLOTS,
    baselines: Baselines = "",
    demonstrations: Demonstrations = None,
) -> Report:
    """Recall against the number of facts written at once (Figures 2 and 4).

    Example: larimar eval batch --data FILE --fill FILE --sizes 1,64,512,4096
    """
    numbers = counts("--sizes", sizes)
    grid = [(one, size) for one in addressings(addressing) for size in numbers]
    read = with_true_targets(read_records(frame.data, frame.limit))
    records = with_fewer_probes(read.records, probes) if probes else list(read.records)
    asked = min(asked, len(records))
    filler = read_records(fill) if fill else None
    records += _further(records, filler.records if filler else ())
    if numbers[-1] > len(records):
        raise InvalidArgument(
            f"there are {len(records)} facts for --sizes up to {numbers[-1]}: give --fill FILE, or "
            "smaller sizes"
        )
    written = replace(read, records=tuple(records[: asked + numbers[-1]]))
    chosen = wanted(baselines, written, fill or frame.data, demonstrations=demonstrations)
    others = [
        (name, size)
        for name in chosen.names
        for size in numbers
        if size <= chosen.most(name, numbers[-1])
    ]
    settings: dict[str, Any] = {
        "sizes": sizes,
        "asked": asked,
        "probes": probes,
        "addressing": addressing,
        "slots": slots,
        "detector": frame.detector,
        "max_tokens": frame.max_tokens,
        "fill_sha256": filler.sha256 if filler else None,
        "baselines": list(chosen.names),
        **chosen.settings(),
    }
    with opened(frame.target, frame.model, frame.detector, dtype=chosen.dtype) as system:
        run = frame.started(read, system.digest, settings | system.setup, facts=len(records))
        cells = [*grid, *others]
        already = sum(_key(*cell, one) in run.kept for cell in cells for one in records[:asked])
        ask = partial(
            _measured, records=records, asked=asked, kept=run.kept, max_tokens=frame.max_tokens
        )
        with frame.bar("Batches", len(cells) * asked, already) as advance:
            for name, size in grid:
                with system.new_bank(name, slots_of(name, slots)) as bank:
                    for _ in ask(bank, LARIMAR, name, size):
                        advance(1)
            for name, baseline in alone(system, chosen):
                for size in (size for other, size in others if other == name):
                    for _ in ask(baseline, View(name), name, size):
                        advance(1)
    rows = rows_of(grid, others, records[:asked], run.kept, slots, frame.seed)
    return run.report(
        "Facts written at once",
        rows,
        [_table(rows, name) for name in dict.fromkeys(name for name, _ in grid)],
        [
            f"The same {asked} records are asked at every number of facts. Percent; in brackets "
            "the 95 % bootstrap interval over records.",
            banks_note(slots),
            *chosen.limits_note("these at once"),
        ],
        partial(_draw, rows=rows, metric="edit_generated", slots=slots),
        {
            f"{NAME}-{metric}": partial(_draw, rows=rows, metric=metric, slots=slots)
            for metric in list(DRAWN)[1:]
            if any(one["metrics"][metric]["value"] is not None for one in rows)
        },
        n=asked,
    )


def rows_of(
    grid: Sequence[tuple[str, int]],
    others: Sequence[tuple[str, int]],
    records: Sequence[EditRecord],
    kept: Mapping[str, Any],
    slots: int,
    seed: int,
) -> list[dict[str, Any]]:
    """A row for each addressing and size, with the base beside the first one's, and baselines'."""
    rows = []
    for place, (name, size) in enumerate(grid):
        found = [kept[_key(name, size, record)] for record in records]
        where = {"facts": size, "addressing": name, "slots": slots_of(name, slots)}
        rows.append(_row(LARIMAR.name, found, seed) | where)
        if grid[place][0] == grid[0][0]:
            rows.append(_row(BASE.name, found, seed) | {"facts": size})
    for name, size in others:
        found = [kept[_key(name, size, record)] for record in records]
        rows.append(_row(name, found, seed) | {"facts": size})
    return rows


def _row(system: str, found: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any]:
    return row(system, [one[system] for one in found], METRICS, seed)


def _further(records: Sequence[EditRecord], filler: Sequence[EditRecord]) -> list[EditRecord]:
    """The facts of another file that the records do not edit, by case id and by prompt."""
    ids = {record.case_id for record in records}
    prompts = {record.prompt for record in records}
    return [
        record for record in filler if record.case_id not in ids and record.prompt not in prompts
    ]


def _measured(
    bank: Remembering,
    view: View,
    name: str,
    size: int,
    *,
    records: Sequence[EditRecord],
    asked: int,
    kept: Records,
    max_tokens: int,
) -> Iterator[EditRecord]:
    """Keeps what the first `asked` records come to among `size` facts; yields at each.

    The last group is filled up with the records before it.
    """
    wanted = {record.case_id for record in records[:asked]}
    for low in range(0, asked, size):
        group = records[low : low + size]
        for record, seen in observed(
            bank,
            group if len(group) == size else records[-size:],
            [view, BASE],
            batch=size,
            max_tokens=max_tokens,
            done=lambda one: one.case_id not in wanted or _key(name, size, one) in kept,
            decode=partial(bank.decode, remember=True),
        ):
            base = seen[BASE.name]
            kept.add(
                _key(name, size, record),
                {system: record_metrics(one, base) for system, one in seen.items()},
            )
            yield record


def _key(name: str, size: int, record: EditRecord) -> str:
    return f"{name}-{size}-{record.case_id}"


def _table(rows: Sequence[Mapping[str, Any]], addressing: str) -> Table:
    some = [one for one in rows if one.get("addressing") == addressing]
    some += [one for one in rows if one["system"] == BASE.name][-1:]
    heads = [f"{one['facts']:,}" if one["system"] == LARIMAR.name else "base" for one in some]
    beside = {
        one["system"]: one for one in rows if "addressing" not in one and one["system"] != BASE.name
    }
    some += beside.values()
    heads += [f"{name}, {one['facts']:,}" for name, one in beside.items()]
    return metric_table(
        some, METRICS, paper.BATCH, heads=heads, title=f"{addressing}: facts at once"
    )


def _draw(figure: Any, *, rows: Sequence[Mapping[str, Any]], metric: str, slots: int) -> None:
    names = list(dict.fromkeys(one["addressing"] for one in rows if "addressing" in one))
    lines = [
        (label(name, slots), [one for one in rows if one.get("addressing") == name])
        for name in names
    ]
    systems = dict.fromkeys(one["system"] for one in rows if "addressing" not in one)
    lines += [(name, [one for one in rows if one["system"] == name]) for name in systems]
    curves = [
        Curve(text, [one["facts"] for one in some], [one["metrics"][metric] for one in some])
        for text, some in lines
    ]
    draw_curves(figure, curves, "facts in memory", DRAWN[metric], log_x=True)
    figure.axes[0].set_ylim(*SHARES)
