"""ZsRE: single edits of question answering (Table 12), beside the base model.

Token accuracy is the share of a target's tokens that are the most probable ones after the
tokens before them (MEND, arXiv 2110.11309); exact match is of the generated answer. Locality is
of a question about something else: the continuation must stay the base model's, and the
likelihood of its true answer too.

Source: [L] (arXiv 2403.11901) Table 12.
"""

from __future__ import annotations

from pathlib import Path

from evaluation import edit_tables, metrics
from evaluation.counterfact import Batch, MemorySwitch, ScopeSwitch, Switch, views_of
from evaluation.data import read_records
from evaluation.edit_tables import EditTable, generated, over, unchanged
from evaluation.edits import MAX_TOKENS, Observation, Probe
from evaluation.options import (
    DEFAULT_MODEL,
    IN_PROCESS,
    AsJson,
    Data,
    Detector,
    Fresh,
    Limit,
    MaxTokens,
    ModelPath,
    Out,
    Seed,
    Target,
)
from evaluation.report import Report
from evaluation.systems import Candidate
from larimar.errors import InvalidArgument

NAME = "zsre"
METRICS = (
    "edit_token_accuracy",
    "edit_exact_match",
    "edit_F1",
    "rephrase_token_accuracy",
    "rephrase_exact_match",
    "rephrase_F1",
    "locality_unchanged",
    "locality_token_accuracy",
    "edit_in_scope",
    "rephrase_in_scope",
    "locality_in_scope",
)


def run(
    data: Data,
    limit: Limit = None,
    out: Out = None,
    model: ModelPath = DEFAULT_MODEL,
    target: Target = IN_PROCESS,
    batch: Batch = None,
    scope: ScopeSwitch = Switch.on,
    detector: Detector = "",
    memory: MemorySwitch = Switch.both,
    seed: Seed = 0,
    max_tokens: MaxTokens = MAX_TOKENS,
    fresh: Fresh = False,
    as_json: AsJson = False,
) -> Report:
    """Edits, rephrasings and locality of ZsRE, beside the base model (Table 12).

    Example: larimar eval zsre --data FILE --limit 100
    """
    read = read_records(data, limit)
    if read.form != NAME:
        raise InvalidArgument(
            f"{data}: records of the form {read.form}; give ZsRE records in MEND's layout"
        )
    name = f"{NAME}-single" if batch is None else f"{NAME}-batch-{batch}"
    return edit_tables.make(
        EditTable(name, "ZsRE", METRICS, record_metrics, METRICS[:-3]),
        read,
        read.records,
        views_of(scope, memory),
        out=out or Path("out") / name,
        model=model,
        target=target,
        detector=detector,
        batch=batch,
        seed=seed,
        max_tokens=max_tokens,
        fresh=fresh,
        quiet=as_json,
    )


def record_metrics(ours: Observation, base: Observation | None) -> dict[str, float | None]:
    """Each metric of one record, a fraction: the mean over its probes, None without any."""
    edit, rephrased, elsewhere = [ours.edit], ours.paraphrases, ours.neighbors
    return {
        "edit_token_accuracy": over(edit, _new_accuracy),
        "edit_exact_match": over(edit, generated),
        "edit_F1": over(edit, _f1),
        "rephrase_token_accuracy": over(rephrased, _new_accuracy),
        "rephrase_exact_match": over(rephrased, generated),
        "rephrase_F1": over(rephrased, _f1),
        "locality_unchanged": unchanged(ours, base),
        "locality_token_accuracy": over(elsewhere, lambda probe: accuracy(probe.true)),
        "edit_in_scope": over(edit, _in_scope),
        "rephrase_in_scope": over(rephrased, _in_scope),
        "locality_in_scope": over(elsewhere, _in_scope),
    }


def accuracy(candidate: Candidate) -> float:
    """The share of a candidate's tokens that were the most probable ones, teacher-forced."""
    return sum(candidate.token_is_argmax) / len(candidate.token_is_argmax)


def _new_accuracy(probe: Probe) -> float:
    return accuracy(probe.new)


def _f1(probe: Probe) -> float:
    return metrics.token_f1(metrics.generated_answer(probe.text or ""), probe.target)


def _in_scope(probe: Probe) -> float:
    return float(probe.in_scope)
