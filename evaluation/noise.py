"""Noise on the address: success, and perplexity of the conditioned decoder, against sigma_w.

Facts are written together and read with N(0, sigma_w^2) added to w. Success is that of edits
and paraphrases. Perplexity is of two texts under the noisy latent: of the new target after its
prompt, and of held-out text that the decoder reads with whatever memory returns for it, scope off.

Source: [L] (arXiv 2403.11901) appendix G, Figure 6.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import Annotated, Any

import typer

from evaluation import metrics
from evaluation.data import EditRecord, read_records, with_true_targets
from evaluation.edit_tables import generated, over, success
from evaluation.edits import Probe, fact_of, probes_at, row, written
from evaluation.frame import Frame, experiment
from evaluation.grids import (
    ALL_ADDRESSINGS,
    SHARES,
    SLOTS,
    Addressing,
    Slots,
    addressings,
    grid_table,
    label,
    levels,
    slots_of,
)
from evaluation.held_out import (
    HeldOut,
    HeldOutText,
    Passages,
    perplexity,
    read_held_out,
    readings,
)
from evaluation.plans import Instead, Plan
from evaluation.plots import Curve, draw_curves
from evaluation.report import Report
from evaluation.systems import BASE, LARIMAR, Banked, View, opened

NAME = "noise"
MEASURES = {"S": success, "generated": generated}
RATES = tuple(f"{group}_{name}" for group in ("edit", "paraphrase") for name in MEASURES)
METRICS = (*RATES, "target_perplexity", "text_perplexity")
SIGMAS = "0,0.003,0.01,0.03,0.1,0.3,1,3"
FACTS, DRAWS = 100, 3
PLAN = Plan(
    files={"data": "counterfact_original_form_2000.jsonl", "text": "val.txt"},
    quick={
        "limit": 4,
        "sigmas": "0,0.1,1",
        "draws": 1,
        "passages": 4,
        "slots": 16,
        "max_tokens": 8,
    },
    full={"limit": FACTS},
    instead={"data": Instead("counterfact.json"), "text": Instead("wiki.valid.tokens")},
)

Sigmas = Annotated[str, typer.Option(help="Standard deviations sigma_w, rising, with commas.")]
Draws = Annotated[int, typer.Option(help="Draws of the noise at each sigma_w.", min=1)]


@experiment(NAME, without=("target",), limit=FACTS)
def run(
    frame: Frame,
    sigmas: Sigmas = SIGMAS,
    draws: Draws = DRAWS,
    text: HeldOut = None,
    passages: Passages = 100,
    addressing: Addressing = ALL_ADDRESSINGS,
    slots: Slots = SLOTS,
) -> Report:
    """Success and perplexity against noise on the address (Figure 6).

    Example: larimar eval noise --data FILE --limit 100 --text FILE
    """
    grid = [
        (name, sigma) for name in addressings(addressing) for sigma in levels("--sigmas", sigmas)
    ]
    read = with_true_targets(read_records(frame.data, frame.limit))
    held_out = read_held_out(text, passages) if text else None
    seed = frame.seed
    settings: dict[str, Any] = {
        "sigmas": sigmas,
        "draws": draws,
        "noise_seed": seed,
        "noise_of": "each prompt its own",
        "addressing": addressing,
        "slots": slots,
        "detector": frame.detector,
        "max_tokens": frame.max_tokens,
        "text": held_out.to_json() if held_out else None,
    }
    with opened(frame.target, frame.model, frame.detector) as system:
        run = frame.started(read, system.digest, settings | system.setup, facts=len(read.records))
        ask = partial(_asked, records=read.records, text=held_out, max_tokens=frame.max_tokens)
        if BASE.name not in run.kept:
            run.kept.add(BASE.name, ask(system, [BASE]))
        missing = run.missing("Noise", {_key(*cell): cell for cell in grid})
        for name, cells in groupby(missing, lambda one: one[1][0]):
            with (
                system.new_bank(name, slots_of(name, slots)) as bank,
                written(bank, [fact_of(record) for record in read.records]),
            ):
                for key, (_, sigma) in cells:
                    run.kept.add(key, ask(bank, views_of(sigma, draws, seed)))
    rows = [
        _row(LARIMAR.name, run.kept[_key(name, sigma)], seed)
        | {"addressing": name, "slots": slots_of(name, slots), "sigma": sigma}
        for name, sigma in grid
    ]
    rows.append(_row(BASE.name, run.kept[BASE.name], seed))
    heads = [f"{one['addressing']}, {one['sigma']:g}" if "sigma" in one else "base" for one in rows]
    drawn = [name for name in METRICS[-2:] if rows[0]["metrics"][name]["value"] is not None]
    return run.report(
        "Noise on the address",
        rows,
        [grid_table(rows, METRICS, heads, "bank, sigma_w")],
        [
            f"{len(read.records)} facts in one bank; {draws} draws of the noise for each prompt at "
            "each sigma_w, which is relative to weights that add up to 1 (slots, gaussian), or to "
            "the coefficients of z over the reference rows (pinv).",
            "target_perplexity is of the new target after its prompt; text_perplexity of held-out "
            "text read with what memory returns for its beginning, scope off; the base reads it "
            "without a latent.",
        ],
        partial(_draw, rows=rows, slots=slots, metric="edit_generated"),
        {
            f"{NAME}-{metric.removesuffix('_perplexity')}-perplexity": partial(
                _draw, rows=rows, slots=slots, metric=metric
            )
            for metric in drawn
        },
        n=len(read.records),
    )


def views_of(sigma: float, draws: int, seed: int) -> list[View]:
    """A view for each draw of the noise; one without noise."""
    seeds = range(seed, seed + (draws if sigma else 1))
    return [View(LARIMAR.name, noise=sigma, noise_seed=one) for one in seeds]


def _asked(
    system: Banked,
    views: Sequence[View],
    *,
    records: Sequence[EditRecord],
    text: HeldOutText | None,
    max_tokens: int,
) -> dict[str, Any]:
    """Each record's shares, the means over views, and perplexities over all of them together."""
    asked = [
        (record, prompt)
        for record in records
        for prompt in (record.prompt, *record.paraphrases[:1])
    ]
    views_probes = [probes_at(system, asked, view, max_tokens) for view in views]
    shares, at = [], 0
    for record in records:
        size = 1 + len(record.paraphrases[:1])
        edit = [probes[at] for probes in views_probes]
        rest = [probe for probes in views_probes for probe in probes[at + 1 : at + size]]
        shares.append(_shares(edit, rest))
        at += size
    logprobs = [
        p
        for probes in views_probes
        for (record, prompt), probe in zip(asked, probes, strict=True)
        if prompt == record.prompt
        for p in probe.new.token_logprobs
    ]
    read = [
        one
        for view in views
        for one in (readings(system, text, replace(view, scope=False)) if text else [])
    ]
    return {
        "records": shares,
        "target_perplexity": math.exp(-math.fsum(logprobs) / len(logprobs)),
        "text_perplexity": perplexity(read),
    }


def _shares(edit: Sequence[Probe], rephrased: Sequence[Probe]) -> dict[str, float | None]:
    return {
        f"{group}_{name}": over(probes, measure)
        for group, probes in (("edit", edit), ("paraphrase", rephrased))
        for name, measure in MEASURES.items()
    }


def _row(system: str, found: Mapping[str, Any], seed: int) -> dict[str, Any]:
    made = row(system, found["records"], RATES, seed)
    for name in METRICS[-2:]:
        made["metrics"][name] = metrics.exactly(found[name], len(found["records"])).to_json()
    return made


def _key(addressing: str, sigma: float) -> str:
    return f"{addressing}-{sigma:g}"


def _draw(figure: Any, *, rows: Sequence[Mapping[str, Any]], slots: int, metric: str) -> None:
    ours = [one for one in rows if "sigma" in one]
    curves = []
    for name in dict.fromkeys(one["addressing"] for one in ours):
        some = [one for one in ours if one["addressing"] == name]
        x = [one["sigma"] for one in some]
        curves.append(Curve(label(name, slots), x, [one["metrics"][metric] for one in some]))
    x = curves[0].x
    curves.append(Curve("base", x, [rows[-1]["metrics"][metric]] * len(x), level=True))
    y_labels = {
        "edit_generated": "edits recalled, generated (%)",
        "target_perplexity": "perplexity of the new target",
        "text_perplexity": "perplexity of held-out text",
    }
    draw_curves(figure, curves, r"standard deviation of the noise, $\sigma_w$", y_labels[metric])
    axes = figure.axes[0]
    above = [sigma for sigma in x if sigma]
    if above:
        axes.set_xscale("symlog", linthresh=above[0])
    if metric == "edit_generated":
        axes.set_ylim(*SHARES)
    else:
        axes.set_yscale("log")
