"""ZsRE: single edits of question answering (Table 12), beside the base model.

Token accuracy is the share of a target's tokens that are the most probable ones after the
tokens before them (MEND, arXiv 2110.11309); exact match is of the generated answer. Locality is
of a question about something else: the continuation must stay the base model's, and the
likelihood of its true answer too.

Source: [L] (arXiv 2403.11901) Table 12.
"""

from __future__ import annotations

from evaluation import edit_tables
from evaluation.baselines.beside import Baselines, Demonstrations, EditorName, HfModel, wanted
from evaluation.counterfact import Batch, MemorySwitch, ScopeSwitch, Switch, views_of
from evaluation.data import read_records
from evaluation.edit_tables import EditTable, f1, generated, in_scope, over, unchanged
from evaluation.edits import Observation, Probe
from evaluation.frame import Frame, experiment
from evaluation.plans import Instead, Plan
from evaluation.report import Report
from evaluation.systems import Candidate
from larimar.errors import InvalidArgument

NAME = "zsre"
FORMS = ("zsre", "zsre_multi_rephrase")
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
PLAN = Plan(
    {"data": "zsre_mend_train-1k.json", "demonstrations": "zsre_multi_rephrase.jsonl"},
    quick={"limit": 24, "max_tokens": 8, "baselines": "prompt,rag"},
    full={"baselines": "prompt,rag,ike:100,ft:100,ft_l:100"},
    instead={"demonstrations": Instead("zsre_mend_eval.json")},
)


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
) -> Report:
    """Edits, rephrasings and locality of ZsRE, beside the base model (Table 12).

    Example: larimar eval zsre --data FILE --limit 100
    """
    read = read_records(frame.data, frame.limit)
    if read.form not in FORMS:
        raise InvalidArgument(
            f"{frame.data}: records of the form {read.form}; give ZsRE records: "
            f"{' or '.join(FORMS)}"
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
        EditTable(NAME, "ZsRE", METRICS, record_metrics, METRICS[:-3]),
        frame,
        read,
        read.records,
        views_of(scope, memory),
        batch=batch,
        baselines=chosen,
    )


def record_metrics(ours: Observation, base: Observation | None) -> dict[str, float | None]:
    """Each metric of one record, a fraction: the mean over its probes, None without any."""
    edit, rephrased, elsewhere = [ours.edit], ours.paraphrases, ours.neighbors
    return {
        "edit_token_accuracy": over(edit, _new_accuracy),
        "edit_exact_match": over(edit, generated),
        "edit_F1": over(edit, f1),
        "rephrase_token_accuracy": over(rephrased, _new_accuracy),
        "rephrase_exact_match": over(rephrased, generated),
        "rephrase_F1": over(rephrased, f1),
        "locality_unchanged": unchanged(ours, base),
        "locality_token_accuracy": over(elsewhere, lambda probe: accuracy(probe.true)),
        "edit_in_scope": over(edit, in_scope),
        "rephrase_in_scope": over(rephrased, in_scope),
        "locality_in_scope": over(elsewhere, in_scope),
    }


def accuracy(candidate: Candidate) -> float:
    """The share of a candidate's tokens that were the most probable ones, teacher-forced."""
    return sum(candidate.token_is_argmax) / len(candidate.token_is_argmax)


def _new_accuracy(probe: Probe) -> float:
    return accuracy(probe.new)
