"""CounterFact: single edits, or many at once in one bank, beside the base model.

Source: [L] (arXiv 2403.11901) Tables 2 and 8; batches: Figures 2 and 4. S and M are those of
Meng et al. 2022 (arXiv 2202.05262): S the share with P(new) > P(true), M the mean of P(new) -
P(true), with P = exp(-mean NLL over the target's tokens); for neighbours the other way round;
per record, then averaged. Teacher-forced success alone flatters an editor (arXiv 2502.11177), so
every success also has its generated figure.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from evaluation import edit_tables, metrics, paper
from evaluation.baselines.beside import Baselines, Demonstrations, EditorName, HfModel, wanted
from evaluation.data import read_records, with_fewer_probes, with_true_targets
from evaluation.edit_tables import (
    EditTable,
    argmax,
    generated,
    in_scope,
    magnitude,
    over,
    success,
    unchanged,
)
from evaluation.edits import Observation, Probe
from evaluation.frame import Frame, experiment
from evaluation.plans import Instead, Plan
from evaluation.report import Report
from evaluation.systems import BASE, LARIMAR, SCOPE_OFF, View

NAME = "counterfact"
PROBED = (
    "edit_S",
    "edit_M",
    "edit_argmax",
    "edit_generated",
    "paraphrase_S",
    "paraphrase_M",
    "paraphrase_argmax",
    "paraphrase_generated",
    "paraphrase_raw_S",
    "paraphrase_raw_M",
    "paraphrase_raw_generated",
    "neighborhood_S",
    "neighborhood_M",
    "neighborhood_unchanged",
    "edit_in_scope",
    "paraphrase_in_scope",
    "paraphrase_raw_in_scope",
    "neighborhood_in_scope",
)
METRICS = (*PROBED, "score")
# What the harmonic score is made of (Meng et al. 2022).
SCORE_PARTS = ("edit_S", "paraphrase_S", "neighborhood_S")
DRAWN = tuple(name for name in PROBED if not name.endswith(("_M", "_in_scope")))
PLAN = Plan(
    {"data": "counterfact_original_form_2000.jsonl", "demonstrations": "counterfact-train.json"},
    quick={"limit": 12, "probes": 2, "max_tokens": 8, "baselines": "prompt,rag,ft:4"},
    full={"baselines": "prompt,rag,ike:100,ft:100,ft_l:100"},
    instead={
        "data": Instead("counterfact.json", full={"limit": 2000}),
        "demonstrations": Instead("counterfact.json"),
    },
)


class Switch(StrEnum):
    """Which rows a table has of something that can be switched off."""

    on = "on"
    off = "off"
    both = "both"


Batch = Annotated[
    int | None, typer.Option(help="Facts written at once; one at a time by default.", min=1)
]
ScopeSwitch = Annotated[
    Switch, typer.Option("--scope", help="off: a row in which every prompt reads memory.")
]
MemorySwitch = Annotated[
    Switch, typer.Option("--memory", help="off: the row of the plain decoder, which is the base.")
]
Probes = Annotated[
    int | None, typer.Option(help="At most N paraphrases and N neighbours a record.", min=1)
]


@experiment(NAME)
def run(
    frame: Frame,
    batch: Batch = None,
    scope: ScopeSwitch = Switch.on,
    memory: MemorySwitch = Switch.both,
    baselines: Baselines = "",
    demonstrations: Demonstrations = None,
    hf_model: HfModel = None,
    editor: EditorName = "",
    probes: Probes = None,
) -> Report:
    """Edits, paraphrases and neighbours of CounterFact, beside the base (Tables 2, 8 and 11).

    Example: larimar eval counterfact --data FILE --limit 100
    """
    read = with_true_targets(read_records(frame.data, frame.limit))
    table = EditTable(
        NAME, "CounterFact", PROBED, record_metrics, DRAWN, SCORE_PARTS, paper.COUNTERFACT
    )
    chosen = wanted(
        baselines,
        read,
        frame.data,
        demonstrations=demonstrations,
        hf_model=hf_model,
        editor=editor,
    )
    return edit_tables.make(
        table,
        frame,
        read,
        with_fewer_probes(read.records, probes) if probes else read.records,
        views_of(scope, memory),
        batch=batch,
        baselines=chosen,
        probes=probes,
    )


def views_of(scope: Switch, memory: Switch) -> list[View]:
    """The rows that the switches ask for."""
    views = []
    if memory is not Switch.off:
        views += [LARIMAR] if scope is not Switch.off else []
        views += [SCOPE_OFF] if scope is not Switch.on else []
    return [*views, BASE] if memory is not Switch.on else views


def record_metrics(ours: Observation, base: Observation | None) -> dict[str, float | None]:
    """Each metric of one record, a fraction: the mean over its probes, None without any."""
    edit, clean, raw, neighbors = (
        [ours.edit],
        ours.paraphrases,
        ours.paraphrases_raw,
        ours.neighbors,
    )
    return {
        "edit_S": over(edit, success),
        "edit_M": over(edit, magnitude),
        "edit_argmax": over(edit, argmax),
        "edit_generated": over(edit, generated),
        "paraphrase_S": over(clean, success),
        "paraphrase_M": over(clean, magnitude),
        "paraphrase_argmax": over(clean, argmax),
        "paraphrase_generated": over(clean, generated),
        "paraphrase_raw_S": over(raw, success),
        "paraphrase_raw_M": over(raw, magnitude),
        "paraphrase_raw_generated": over(raw, generated),
        "neighborhood_S": over(neighbors, _kept),
        "neighborhood_M": over(neighbors, _kept_magnitude),
        "neighborhood_unchanged": unchanged(ours, base),
        "edit_in_scope": over(edit, in_scope),
        "paraphrase_in_scope": over(clean, in_scope),
        "paraphrase_raw_in_scope": over(raw, in_scope),
        "neighborhood_in_scope": over(neighbors, in_scope),
    }


def _kept(probe: Probe) -> float:
    return metrics.neighborhood_success(probe.new.token_logprobs, probe.true.token_logprobs)


def _kept_magnitude(probe: Probe) -> float:
    return metrics.neighborhood_magnitude(probe.new.token_logprobs, probe.true.token_logprobs)
