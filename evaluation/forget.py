"""Forgetting: what is left of forgotten facts, and what becomes of the others.

N facts are written, a share of them is forgotten, and each is asked by its own prompt: before,
after, and in a second bank that never had the forgotten ones. Forgetting is exact where the two
banks have one digest and give the same answers; what is recalled after it is then a guess.

Source: [L] (arXiv 2403.11901) Table 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any

import typer

from evaluation import metrics, paper
from evaluation.data import EditRecord, read_records, with_true_targets
from evaluation.edit_tables import generated, success
from evaluation.edits import Probe, fact_of, probes_at, spread, written
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
from evaluation.plots import COLORS
from evaluation.report import Report
from evaluation.systems import BASE, LARIMAR, Banked, opened
from larimar.errors import InvalidArgument

NAME = "forget"
METRICS = (
    "forgotten_recall_before",
    "forgotten_recall",
    "never_written_recall",
    "retained_recall_before",
    "retained_recall",
    "retained_unchanged",
    "forgotten_S",
    "retained_S",
    "same_answers",
    "same_digest",
)
DRAWN = {
    "forgotten_recall_before": "forgotten, before",
    "forgotten_recall": "forgotten, after",
    "never_written_recall": "never written",
    "retained_recall": "retained, after",
}
ASKED = 200
EVERY = 10
PLAN = Plan(
    files={"data": "counterfact_original_form_2000.jsonl"},
    quick={"slots": 8, "asked": 8, "every": 4, "max_tokens": 8},
    instead={"data": Instead("counterfact.json", full={"limit": 2000})},
)

Sizes = Annotated[
    str, typer.Option(help="Numbers of facts, rising, with commas. [default: 1, K and 2 K]")
]
Every = Annotated[int, typer.Option(help="Every such fact is forgotten, the first one too.", min=2)]
Asked = Annotated[
    int, typer.Option(help="Forgotten facts asked, and retained ones, at most.", min=1)
]


@experiment(NAME)
def run(
    frame: Frame,
    sizes: Sizes = "",
    every: Every = EVERY,
    asked: Asked = ASKED,
    addressing: Addressing = ALL_ADDRESSINGS,
    slots: Slots = SLOTS,
) -> Report:
    """Forgotten and retained facts that are recalled, N = 1, K and 2 K written (Table 4).

    Example: larimar eval forget --data FILE --slots 512
    """
    numbers = counts("--sizes", sizes or f"1,{slots},{2 * slots}")
    grid = [(name, size) for name in addressings(addressing) for size in numbers]
    read = with_true_targets(read_records(frame.data, frame.limit))
    if numbers[-1] > len(read.records):
        raise InvalidArgument(
            f"{frame.data} has {len(read.records)} facts for --sizes up to {numbers[-1]}: give "
            "smaller ones, or fewer --slots"
        )
    settings: dict[str, Any] = {
        "sizes": numbers,
        "every": every,
        "asked": asked,
        "addressing": addressing,
        "slots": slots,
        "detector": frame.detector,
        "max_tokens": frame.max_tokens,
    }
    with opened(frame.target, frame.model, frame.detector) as system:
        run = frame.started(read, system.digest, settings | system.setup)
        for key, (name, size) in run.missing("Forgetting", {_key(*cell): cell for cell in grid}):
            found = measured(
                system,
                read.records[:size],
                (name, slots_of(name, slots)),
                every=every,
                asked=asked,
                max_tokens=frame.max_tokens,
            )
            run.kept.add(key, found)
    kept, seed = run.kept, frame.seed
    rows = [row_of(*cell, kept[_key(*cell)], slots, seed) for cell in grid]
    rows += [base_row(size, kept[_key(grid[0][0], size)], seed) for size in numbers]
    heads = [f"{one.get('addressing', one['system'])}, N = {one['facts']:,}" for one in rows]
    return run.report(
        "Facts forgotten",
        rows,
        [grid_table(rows, METRICS, heads, "bank", paper=paper.FORGET)],
        [
            f"Every {every}th fact is forgotten, the first one too. Percent of facts whose greedy "
            "answer, to their own prompt, is theirs exactly; in brackets the 95 % bootstrap "
            "interval. never_written is a bank that never had the forgotten facts.",
            banks_note(slots),
        ],
        partial(_draw, rows=rows, slots=slots),
        n=numbers[-1],
    )


def measured(
    system: Banked,
    records: Sequence[EditRecord],
    bank_of: tuple[str, int],
    *,
    every: int,
    asked: int,
    max_tokens: int,
) -> dict[str, Any]:
    """Forgotten and retained facts before and after, in a twin bank, and by the base.

    Args:
        bank_of: addressing and slots.
    """
    gone, stays = records[::every], [one for i, one in enumerate(records) if i % every]
    chosen = [*spread(gone, asked), *spread(stays, asked)]
    pairs = [(record, record.prompt) for record in chosen]
    forgotten = min(asked, len(gone))
    with system.new_bank(*bank_of) as bank:
        bank.write([fact_of(record) for record in records])
        base = probes_at(bank, pairs, BASE, max_tokens)
        before = probes_at(bank, pairs, LARIMAR, max_tokens)
        bank.forget([fact_of(record).fact_id for record in gone])
        after, digest = probes_at(bank, pairs, LARIMAR, max_tokens), bank.bank_digest()
    with system.new_bank(*bank_of) as twin, written(twin, [fact_of(one) for one in stays]):
        never, twin_digest = probes_at(twin, pairs, LARIMAR, max_tokens), twin.bank_digest()
    states = {"base": base, "before": before, "after": after, "never": never}
    return {
        "forgotten": {name: _measures(probes[:forgotten]) for name, probes in states.items()},
        "retained": {name: _measures(probes[forgotten:]) for name, probes in states.items()},
        "unchanged": [
            float(one.text == other.text)
            for one, other in zip(before[forgotten:], after[forgotten:], strict=True)
        ],
        "same_answers": [float(one == other) for one, other in zip(after, never, strict=True)],
        "same_digest": digest == twin_digest,
    }


def row_of(
    addressing: str, size: int, found: Mapping[str, Any], slots: int, seed: int
) -> dict[str, Any]:
    """One bank's row."""
    gone, stays = found["forgotten"], found["retained"]
    shares = {
        "forgotten_recall_before": gone["before"]["generated"],
        "forgotten_recall": gone["after"]["generated"],
        "never_written_recall": gone["never"]["generated"],
        "retained_recall_before": stays["before"]["generated"],
        "retained_recall": stays["after"]["generated"],
        "retained_unchanged": found["unchanged"],
        "forgotten_S": gone["after"]["S"],
        "retained_S": stays["after"]["S"],
        "same_answers": found["same_answers"],
        "same_digest": [float(found["same_digest"])],
    }
    where = {"facts": size, "addressing": addressing, "slots": slots_of(addressing, slots)}
    return {"system": LARIMAR.name, "metrics": _summaries(shares, seed)} | where


def base_row(size: int, found: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """What the plain decoder says to the same prompts."""
    shares = {
        "forgotten_recall": found["forgotten"]["base"]["generated"],
        "retained_recall": found["retained"]["base"]["generated"],
        "forgotten_S": found["forgotten"]["base"]["S"],
        "retained_S": found["retained"]["base"]["S"],
    }
    return {"system": BASE.name, "metrics": _summaries(shares, seed), "facts": size}


def _summaries(shares: Mapping[str, Sequence[float]], seed: int) -> dict[str, Any]:
    return {name: metrics.summarise(values, seed).to_json() for name, values in shares.items()}


def _measures(probes: Sequence[Probe]) -> dict[str, list[float]]:
    return {"generated": [generated(one) for one in probes], "S": [success(one) for one in probes]}


def _key(addressing: str, size: int) -> str:
    return f"{addressing}-{size}"


def _draw(figure: Any, *, rows: Sequence[Mapping[str, Any]], slots: int) -> None:
    """A panel for each addressing: bars over N."""
    ours = [one for one in rows if "addressing" in one]
    names = list(dict.fromkeys(one["addressing"] for one in ours))
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        some = [one for one in ours if one["addressing"] == name]
        for place, metric in enumerate(DRAWN):
            known = [(i + (place - 1.5) / 5, one["metrics"][metric]) for i, one in enumerate(some)]
            known = [(x, one) for x, one in known if one["value"] is not None]
            spread = [
                [one["value"] - one["low"] for _, one in known],
                [one["high"] - one["value"] for _, one in known],
            ]
            axes.bar(
                [x for x, _ in known],
                [one["value"] for _, one in known],
                0.2,
                yerr=spread,
                label=DRAWN[metric],
                capsize=1.5,
                color=COLORS[place],
                error_kw={"elinewidth": 0.8},
            )
        axes.set_xticks(range(len(some)), [f"{one['facts']:,}" for one in some])
        axes.set_xlabel("facts written, N")
        axes.set_title(label(name, slots), fontsize=9)
        axes.grid(axis="x", visible=False)
        axes.set_ylim(*SHARES)
    panels[0].set_ylabel("facts recalled (%)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, fontsize=8)
