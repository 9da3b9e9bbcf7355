"""Sequential edits: many facts written one after another into one bank, nothing ever reset.

Each edit is a prompt and an answer. With `--rephrasings R` each fact is written up to R times, by
another of its prompts each time, in rounds over all facts; the last rephrasings of a fact are never
written and asked as unseen ones. At steps along the way all edits so far are asked by their own
prompts (a sample of them before the last step). Retention is the mean token F1 of the answers.

Source: [L] (arXiv 2403.11901) Table 3: edit retention (ERR) and what the base model keeps (TRR);
the protocol is that of Hartvigsen et al. 2022 (arXiv 2211.11031).
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any

import typer

from evaluation import metrics, paper
from evaluation.alone import alone
from evaluation.baselines.beside import Baselines, Demonstrations, Wanted, wanted
from evaluation.data import (
    EditRecord,
    read_records,
    with_true_targets,
    without_edited_neighbors,
)
from evaluation.edit_stream import Stream, steps_of, stream_of
from evaluation.edit_tables import f1, generated, in_scope, success
from evaluation.edits import Probe, probes_at, spread
from evaluation.frame import Frame, experiment
from evaluation.grids import (
    SHARES,
    SLOTS,
    Addressing,
    Slots,
    addressings,
    grid_table,
    label,
    slots_of,
)
from evaluation.held_out import (
    HeldOut,
    HeldOutText,
    Passages,
    Reading,
    perplexity,
    read_held_out,
    readings,
)
from evaluation.options import Advance
from evaluation.plans import Instead, Plan
from evaluation.plots import Curve, draw_curves
from evaluation.records import Records
from evaluation.report import Report, metric_table
from evaluation.systems import (
    BASE,
    LARIMAR,
    Banked,
    NewFact,
    Query,
    Remembering,
    System,
    View,
    opened,
)

NAME = "sequential"
ASKED = 1000
"""Edits asked at a step that is not the last; they are spread evenly over those written."""
MEASURES = {"f1": f1, "exact": generated, "S": success, "in_scope": in_scope}
METRICS = (
    *(f"retention_{name}" for name in MEASURES),
    *(f"unseen_{name}" for name in MEASURES),
    "locality_unchanged",
    "locality_in_scope",
    "base_perplexity_before",
    "base_perplexity_after",
    "text_unchanged",
    "text_in_scope",
    "seconds_per_edit",
)
PLAN = Plan(
    files={"data": "zsre_multi_rephrase.jsonl", "text": "val.txt"},
    quick={
        "limit": 12,
        "rephrasings": 2,
        "passages": 8,
        "max_tokens": 8,
        "baselines": "prompt:6,rag,ft:6",
    },
    full={
        "limit": 200,
        "rephrasings": 5,
        "baselines": "prompt,rag,ike,ft:500,ft_l:500",
    },
    instead={
        "data": Instead("zsre_mend_eval.json", full={"limit": 1000, "rephrasings": 1}),
        "text": Instead("wiki.valid.tokens"),
    },
)

Rephrasings = Annotated[int, typer.Option(help="Prompts of a fact that are written.", min=1)]
Unseen = Annotated[int, typer.Option(help="Rephrasings of a fact never written.", min=1)]


@experiment(NAME)
def run(
    frame: Frame,
    rephrasings: Rephrasings = 1,
    unseen: Unseen = 1,
    text: HeldOut = None,
    passages: Passages = 400,
    addressing: Addressing = "slots",
    slots: Slots = SLOTS,
    baselines: Baselines = "",
    demonstrations: Demonstrations = None,
) -> Report:
    """A thousand edits in a row: what is kept of them, and of everything else (Table 3).

    Example: larimar eval sequential --data FILE --limit 200 --rephrasings 5 --text FILE
    """
    [addressing] = addressings(addressing)
    slots = slots_of(addressing, slots)
    read = with_true_targets(read_records(frame.data, frame.limit))
    held_out = read_held_out(text, passages) if text else None
    chosen = wanted(baselines, read, frame.data, demonstrations=demonstrations)
    stream = stream_of(read.records, rephrasings, unseen)
    settings: dict[str, Any] = {
        "rephrasings": rephrasings,
        "unseen": unseen,
        "addressing": addressing,
        "slots": slots,
        "detector": frame.detector,
        "max_tokens": frame.max_tokens,
        "text": held_out.to_json() if held_out else None,
        "intervals": "over records",
        "baselines": list(chosen.names),
        **chosen.settings(),
    }
    with opened(
        frame.target, frame.model, frame.detector, addressing, slots, dtype=chosen.dtype
    ) as system:
        run = frame.started(
            read,
            system.digest,
            settings | system.setup,
            folder=f"{NAME}-{len(read.records)}x{rephrasings}",
            edits=len(stream.edits),
        )
        kept, seed = run.kept, frame.seed
        _measure(system, stream, read.records, held_out, kept, frame)
        _measure_baselines(system, chosen, stream, read.records, kept, frame)
    steps = steps_of(len(stream.edits))
    alike = alike_targets(read.records)
    rows = [larimar_row(kept, steps, alike, seed), base_row(kept, alike, seed)]
    rows += [baseline_row(kept, name, alike, seed) for name in chosen.names]
    curve = [curve_row(kept, step, alike, seed) for step in steps]
    others = {name: baseline_curve(kept, name, alike, seed) for name in chosen.names}
    return run.report(
        f"Sequential edits: {len(stream.edits)} in a row",
        rows,
        [
            metric_table(
                rows, [name for name in METRICS if name in rows[0]["metrics"]], paper.SEQUENTIAL
            ),
            grid_table(curve, METRICS, [f"{step:,}" for step in steps], "edits", "Along the way"),
        ],
        [
            *_notes(kept, stream, alike),
            *chosen.limits_note("after these edits, as the rows' edits say"),
        ],
        lambda figure: _draw(figure, curve, rows[1], label(addressing, slots), others),
        n=len(read.records),
        edits=len(stream.edits),
        curve=[*curve, *(row for rows in others.values() for row in rows)],
    )


def larimar_row(
    kept: Records, steps: Sequence[int], alike: Collection[str], seed: int
) -> dict[str, Any]:
    """What the last step and the checks of everything else came to."""
    last = curve_row(kept, steps[-1], alike, seed)
    seconds = [one for step in steps for one in kept[f"step-{step}"]["seconds"]]
    return {
        "system": LARIMAR.name,
        "metrics": last["metrics"]
        | _locality(kept[f"locality-{LARIMAR.name}"], kept, seed)
        | _text(kept, seed)
        | {"seconds_per_edit": metrics.mean(seconds, seed).to_json()},
    }


def base_row(kept: Records, alike: Collection[str], seed: int) -> dict[str, Any]:
    """What the plain decoder says to the same prompts."""
    return {
        "system": BASE.name,
        "metrics": _measured(kept["base"], alike, seed)
        | _locality(kept[f"locality-{BASE.name}"], kept, seed),
    }


def baseline_row(kept: Records, name: str, alike: Collection[str], seed: int) -> dict[str, Any]:
    """What a baseline says after the last edit."""
    found = kept[f"baseline-{name}"]
    return {
        "system": name,
        "edits": len(found["seconds"]),
        "metrics": _measured(found, alike, seed)
        | _locality(found["locality"], kept, seed)
        | {"seconds_per_edit": metrics.mean(found["seconds"], seed).to_json()},
    }


def curve_row(kept: Records, step: int, alike: Collection[str], seed: int) -> dict[str, Any]:
    """Retention and unseen rephrasings after so many edits."""
    return {
        "system": LARIMAR.name,
        "edits": step,
        "metrics": _measured(kept[f"step-{step}"], alike, seed),
    }


def baseline_curve(
    kept: Records, name: str, alike: Collection[str], seed: int
) -> list[dict[str, Any]]:
    """The same of a baseline, after each step up to the last of its edits."""
    return [
        {"system": name, "edits": int(step), "metrics": _measured(found, alike, seed)}
        for step, found in kept[f"baseline-{name}"]["steps"].items()
    ]


def _measure(
    system: Banked,
    stream: Stream,
    records: Sequence[EditRecord],
    text: HeldOutText | None,
    kept: Records,
    frame: Frame,
) -> None:
    """Keeps what is not kept yet: before, at every step, and after."""
    max_tokens, steps = frame.max_tokens, steps_of(len(stream.edits))
    missing = [step for step in steps if f"step-{step}" not in kept]
    if text and "text-before" not in kept:
        kept.add("text-before", _read_text(system, text))
    elsewhere = _elsewhere(records, max_tokens)
    if "base" not in kept:
        kept.add("base", _asked(system, stream, len(stream.edits), BASE, max_tokens))
    if f"locality-{BASE.name}" not in kept:
        kept.add(f"locality-{BASE.name}", _texts(system, elsewhere, BASE))
    after = [name for name in (f"locality-{LARIMAR.name}", "text-after") if name not in kept]
    after = [name for name in after if text or name != "text-after"]
    if not missing and not after:
        return
    done = (missing[0] if missing else steps[-1] + 1) - 1
    before = max((step for step in steps if step <= done), default=0)
    system.write(stream.facts(0, before))
    with frame.bar("Sequential edits", len(stream.edits), before) as advance:
        for step in missing:
            seconds = _written_singly(system, stream.facts(before, step), advance)
            measured = _asked(system, stream, step, LARIMAR, max_tokens)
            kept.add(f"step-{step}", measured | {"seconds": seconds})
            before = step
    if f"locality-{LARIMAR.name}" in after:
        kept.add(f"locality-{LARIMAR.name}", _texts(system, elsewhere, LARIMAR))
    if "text-after" in after and text:
        kept.add("text-after", _read_text(system, text))


def _measure_baselines(
    system: Banked,
    chosen: Wanted,
    stream: Stream,
    records: Sequence[EditRecord],
    kept: Records,
    frame: Frame,
) -> None:
    """Keeps what each baseline says at every step."""
    max_tokens = frame.max_tokens
    if all(f"baseline-{name}" in kept for name in chosen.names):
        return
    for name, baseline in alone(system, chosen):
        if f"baseline-{name}" in kept:
            continue
        edits = chosen.most(name, len(stream.edits))
        facts, view = stream.facts(0, edits), View(name)
        seconds: list[float] = []
        found: dict[int, Any] = {}
        with frame.bar(f"{name}, edits", len(facts)) as advance:
            for step in steps_of(edits):
                seconds += _written_singly(baseline, facts[len(seconds) : step], advance)
                found[step] = _asked(baseline, stream, step, view, max_tokens)
        texts = _texts(baseline, _elsewhere(records, max_tokens), view)
        baseline.forget([fact.fact_id for fact in facts])
        steps = {str(step): one for step, one in found.items()}
        kept.add(
            f"baseline-{name}",
            found[edits] | {"seconds": seconds, "locality": texts, "steps": steps},
        )


def _elsewhere(records: Sequence[EditRecord], max_tokens: int) -> list[Query]:
    """Questions about something else, which no edit answers, with their true answers."""
    return [
        Query(prompt, (f" {answer}",), max_tokens)
        for record in without_edited_neighbors(records)
        for prompt, answer in zip(record.neighbors, record.neighbor_answers, strict=True)
    ]


def _written_singly(system: System, facts: Sequence[NewFact], advance: Advance) -> list[float]:
    """Writes facts one after another; the seconds of each."""
    seconds = []
    for fact in facts:
        started = time.perf_counter()
        system.write([fact])
        seconds.append(time.perf_counter() - started)
        advance(1)
    return seconds


def _asked(
    system: Remembering, stream: Stream, step: int, view: View, max_tokens: int
) -> dict[str, dict[str, list[list[float]]]]:
    """The measures of edits and of unseen rephrasings, after so many edits, by record: edits of one
    record are rephrasings of one fact."""
    edits = stream.edits[:step]
    written = {record.case_id for record, _ in edits}
    unseen = [one for one in stream.unseen if one[0].case_id in written]
    if step < len(stream.edits):
        edits, unseen = spread(edits, ASKED), spread(unseen, ASKED)
    probes = probes_at(system, [*edits, *unseen], view, max_tokens)
    found: dict[str, dict[str, list[list[float]]]] = {"retention": {}, "unseen": {}}
    for place, ((record, _), probe) in enumerate(zip([*edits, *unseen], probes, strict=True)):
        group = found["retention" if place < len(edits) else "unseen"]
        group.setdefault(record.case_id, []).append(_measures(probe))
    return found


def _measures(probe: Probe) -> list[float]:
    return [round(measure(probe), 6) for measure in MEASURES.values()]


def _texts(system: System, queries: Sequence[Query], view: View) -> list[list[Any]]:
    """What is said to questions about something else, decoded anew, and whether scope took it."""
    seen = system.decode(system.read(queries, view)) if queries else []
    return [[one.text, one.in_scope] for one in seen]


def _read_text(system: Banked, text: HeldOutText) -> list[list[Any]]:
    return [[list(one.logprobs), one.in_scope] for one in readings(system, text, LARIMAR)]


def _measured(found: dict[str, Any], alike: Collection[str], seed: int) -> dict[str, Any]:
    return {
        f"{group}_{name}": metrics.summarise(
            (
                metrics.record_mean([one[place] for one in some])
                for case_id, some in found[group].items()
                if name != "S" or case_id not in alike
            ),
            seed,
        ).to_json()
        for group in ("retention", "unseen")
        for place, name in enumerate(MEASURES)
    }


def alike_targets(records: Sequence[EditRecord]) -> frozenset[str]:
    """Case ids of records whose new target is the true one: S is not of them, P(new) = P(true)."""
    return frozenset(
        record.case_id
        for record in records
        if metrics.normalise(record.target_new) == metrics.normalise(record.target_true)
    )


def _locality(ours: Sequence[list[Any]], kept: Records, seed: int) -> dict[str, Any]:
    base = kept[f"locality-{BASE.name}"]
    same = [float(one[0] == plain[0]) for one, plain in zip(ours, base, strict=True)]
    return {
        "locality_unchanged": metrics.summarise(same, seed).to_json(),
        "locality_in_scope": metrics.summarise((float(one[1]) for one in ours), seed).to_json(),
    }


def _text(kept: Records, seed: int) -> dict[str, Any]:
    if "text-before" not in kept:
        return {}
    before, after = (
        [Reading(tuple(logprobs), taken) for logprobs, taken in kept[name]]
        for name in ("text-before", "text-after")
    )
    same = [float(one.logprobs == other.logprobs) for one, other in zip(before, after, strict=True)]
    return {
        "base_perplexity_before": metrics.exactly(perplexity(before), len(before)).to_json(),
        "base_perplexity_after": metrics.exactly(perplexity(after), len(after)).to_json(),
        "text_unchanged": metrics.summarise(same, seed).to_json(),
        "text_in_scope": metrics.summarise((float(one.in_scope) for one in after), seed).to_json(),
    }


def _notes(kept: Records, stream: Stream, alike: Collection[str]) -> list[str]:
    notes = [
        f"{len(stream.edits)} edits, one after another, in one bank that is never reset; "
        f"{len(stream.unseen)} rephrasings were never written. In brackets the 95 % bootstrap "
        "interval over records.",
    ]
    if alike:
        notes.append(f"{len(alike)} records whose new target is the true one have no S.")
    if len(stream.edits) > ASKED:
        notes.append(
            f"At a step before the last at most {ASKED:,} edits, spread evenly over those so far, "
            "are asked, and as many unseen rephrasings."
        )
    if "text-before" in kept:
        pairs = list(zip(kept["text-before"], kept["text-after"], strict=True))
        outside = [(one, other) for one, other in pairs if not other[1]]
        changed = sum(one[0] != other[0] for one, other in outside)
        notes.append(
            f"Held-out text: {len(outside)} of {len(pairs)} passages are out of scope after the "
            f"last edit; the log probabilities of {changed} of these differ, in any bit, from "
            "those before the first edit."
        )
    return notes


def _draw(
    figure: Any,
    curve: Sequence[dict[str, Any]],
    base: dict[str, Any],
    name: str,
    others: Mapping[str, Sequence[dict[str, Any]]],
) -> None:
    steps = [row["edits"] for row in curve]
    drawn = [
        (f"{name}: edits", "retention_f1", curve),
        (f"{name}: unseen rephrasings", "unseen_f1", curve),
        *((f"{other}: edits", "retention_f1", rows) for other, rows in others.items()),
    ]
    curves = [
        Curve(text, [row["edits"] for row in rows], [row["metrics"][metric] for row in rows])
        for text, metric, rows in drawn
    ]
    plain = [base["metrics"]["retention_f1"]] * len(steps)
    curves.append(Curve("base: edits", steps, plain, level=True))
    draw_curves(figure, curves, "edits in a row", "token F1 of the answers (%)", log_x=True)
    figure.axes[0].set_ylim(*SHARES)
