"""Ablations: the same single edits with one thing changed a row.

Rows: as the model is; without scope (every prompt reads memory); without memory (the plain
decoder); with a paraphrase of each edit written beside it; each detector of scope; memories of
fixed size (pinv, gaussian); and models of other training configurations, where there are any.

Every row is asked the same prompts. The first clean paraphrase of a record is the one that is
written in the row "paraphrase written", and asked in none.

Source: [L] (arXiv 2403.11901) Tables 8 to 11.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

import larimar
from evaluation.counterfact import (
    DRAWN,
    PROBED,
    SCORE_PARTS,
    Batch,
    Probes,
    record_metrics,
)
from evaluation.data import (
    EditRecord,
    read_records,
    strip_distractor,
    with_fewer_probes,
    with_true_targets,
)
from evaluation.edit_tables import EditTable, scored_row
from evaluation.edits import fact_of, observed
from evaluation.frame import Frame, experiment
from evaluation.plans import Instead, Plan
from evaluation.plots import draw_rows
from evaluation.records import Records
from evaluation.report import Report, Table, cell
from evaluation.systems import BASE, LARIMAR, SCOPE_OFF, InProcess, NewFact, View
from larimar import isd
from larimar.errors import InvalidArgument
from larimar.scope import ScopeDetector

NAME = "ablations"
METRICS = (*PROBED, "score")
PLAN = Plan(
    {"data": "counterfact_original_form_2000.jsonl"},
    quick={"limit": 8, "probes": 2, "max_tokens": 8},
    instead={"data": Instead("counterfact.json", full={"limit": 2000})},
)
PARAPHRASE_WRITTEN = "paraphrase written"
FIXED_SIZE = ("pinv", "gaussian")
SHOWN = (
    "edit_S",
    "edit_generated",
    "paraphrase_S",
    "paraphrase_generated",
    "paraphrase_raw_S",
    "neighborhood_S",
    "neighborhood_unchanged",
    "score",
)
"""Columns of the table; the JSON has all metrics."""
_TABLE = EditTable(NAME, "Ablations", PROBED, record_metrics, DRAWN, SCORE_PARTS)

Models = Annotated[
    list[str] | None,
    typer.Option("--models", help="NAME=FOLDER of another model; may be given again."),
]


@dataclass(frozen=True)
class Part:
    """Rows of one system: they are read while the same facts are in memory."""

    system: InProcess
    views: tuple[View, ...]
    """One for each row, by whose name it goes."""
    fact: Callable[[EditRecord], NewFact] = fact_of


@experiment(NAME, without=("target", "detector"))
def run(
    frame: Frame,
    models: Models = None,
    batch: Batch = None,
    probes: Probes = None,
) -> Report:
    """Single edits with one part switched off or exchanged a row (Tables 8 to 11).

    Example: larimar eval ablations --data FILE --limit 200 --models c3=FOLDER
    """
    read = with_true_targets(read_records(frame.data, frame.limit))
    records, written = held_out(read.records)
    if probes:
        records = with_fewer_probes(records, probes)
    others = folders_of(models or [])
    system = InProcess(larimar.load(frame.model))
    compared = {name: InProcess(larimar.load(folder)) for name, folder in others.items()}
    settings: dict[str, Any] = {
        "batch": batch,
        "probes": probes,
        "max_tokens": frame.max_tokens,
        "models": {name: one.digest for name, one in compared.items()},
        "detectors": detectors_of(system),
    }
    run = frame.started(
        read, system.digest, settings | system.setup, batched=len(records) if batch else 0
    )
    parts = [*parts_of(system, written), *(Part(one, (View(n),)) for n, one in compared.items())]
    with frame.bar("Ablations", len(parts) * len(records)) as advance:
        for part in parts:
            measure(part, records, run.kept, batch, frame.max_tokens, advance)
    names = [view.name for part in parts for view in part.views]
    rows = [
        scored_row(_TABLE, name, [run.kept[f"{name}/{one.case_id}"] for one in records], frame.seed)
        for name in names
    ]
    shown = [[one["system"], *(cell(one["metrics"][name]) for name in SHOWN)] for one in rows]
    return run.report(
        "Ablations",
        rows,
        [Table(["row", *SHOWN], shown)],
        [
            "Percent; in brackets the 95 % bootstrap interval over records.",
            f"The first clean paraphrase of {len(written)} of {len(records)} records is asked in "
            f'no row and written in "{PARAPHRASE_WRITTEN}".',
            *([f"{read.skipped} records without a target were left out."] if read.skipped else []),
        ],
        lambda figure: draw_rows(figure, rows, [name for name in SHOWN if name != "score"]),
        n=len(records),
        paraphrases_written=len(written),
    )


def held_out(records: Sequence[EditRecord]) -> tuple[list[EditRecord], dict[str, str]]:
    """The records without their first clean paraphrase, and that paraphrase by case id.

    A record of fewer than two clean paraphrases keeps what it has.
    """
    kept, written = [], {}
    for record in records:
        if len(record.paraphrases) < 2:
            kept.append(record)
            continue
        first, *rest = record.paraphrases
        written[record.case_id] = first
        raw = tuple(
            text
            for text in record.paraphrases_raw
            if strip_distractor(text, record.subject) != first
        )
        kept.append(replace(record, paraphrases=tuple(rest), paraphrases_raw=raw))
    return kept, written


def folders_of(models: Sequence[str]) -> dict[str, Path]:
    """Model folders by the name of their row.

    Raises:
        InvalidArgument: not NAME=FOLDER, a name that is taken, or no folder.
    """
    taken = {LARIMAR.name, SCOPE_OFF.name, BASE.name, PARAPHRASE_WRITTEN, *FIXED_SIZE, "esd", "isd"}
    folders: dict[str, Path] = {}
    for text in models:
        name, _, folder = text.partition("=")
        if not name or not folder or name in folders or name in taken:
            raise InvalidArgument(
                f"--models {text}: give NAME=FOLDER, each name once, and none of "
                + ", ".join(sorted(taken))
            )
        if not Path(folder).is_dir():
            raise InvalidArgument(f"--models {text}: no folder {folder}")
        folders[name] = Path(folder)
    return folders


def detectors_of(system: InProcess) -> list[str]:
    """The detectors that a model has."""
    return ["esd", "isd"] if isd.FILE in system.model.folder.sha256 else ["esd"]


def parts_of(system: InProcess, written: Mapping[str, str]) -> list[Part]:
    """The rows of the model itself, by system.

    Args:
        written: the paraphrases to write, by case id.
    """

    def rephrased(record: EditRecord) -> NewFact:
        return fact_of(record, [written[record.case_id]] if record.case_id in written else [])

    parts = [
        Part(system, (LARIMAR, SCOPE_OFF, BASE)),
        Part(system, (View(PARAPHRASE_WRITTEN),), rephrased),
    ]
    for name in detectors_of(system):
        model = system.model.with_new_memory()
        model.detector = ScopeDetector.open(model.folder, model.embedder, name)
        parts.append(Part(InProcess(model, system.said), (View(name),)))
    for name in FIXED_SIZE:
        model = system.model.with_new_memory(name)
        parts.append(Part(InProcess(model, system.said), (View(name),)))
    return parts


def measure(
    part: Part,
    records: Sequence[EditRecord],
    kept: Records,
    batch: int | None,
    max_tokens: int,
    advance: Callable[[int], None],
) -> None:
    """Keeps the metrics of each row and record that are not kept yet.

    The plain decoder is asked beside every system: neighbours are compared with it.
    """
    views = part.views if BASE in part.views else (*part.views, BASE)

    def done(record: EditRecord) -> bool:
        return all(f"{view.name}/{record.case_id}" in kept for view in part.views)

    advance(sum(map(done, records)))
    for record, seen in observed(
        part.system,
        records,
        views,
        batch=batch,
        max_tokens=max_tokens,
        done=done,
        decode=partial(part.system.decode, remember=True),
        fact=part.fact,
    ):
        for view in part.views:
            measured = record_metrics(seen[view.name], seen[BASE.name])
            kept.add(f"{view.name}/{record.case_id}", measured)
        advance(1)
