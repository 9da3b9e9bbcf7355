"""CounterFact: single edits, or all of them at once in one bank, beside the base model.

For each record: write prompt and new target, then score and generate at the edit prompt,
at its paraphrases and at its neighbours; then forget the fact. The base model (no
memory) answers the same prompts. Scope sees the prompt only: candidates are scored
after a prompt, they are never part of it.

Source: [L] (arXiv 2403.11901) section 5.1 and Tables 2 and 8; batches: Figures 2 and 4.
Teacher-forced success alone flatters an editor (arXiv 2502.11177), so every success
also has its generated figure.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import larimar
from evaluation import metrics
from evaluation.data import EditData, EditRecord, without_edited_neighbors
from larimar.errors import InvalidArgument

NAME = "counterfact"
MODES = ("single", "batch")
METRICS = (
    "edit_S",
    "edit_M",
    "edit_argmax",
    "edit_generated",
    "paraphrase_S",
    "paraphrase_M",
    "paraphrase_generated",
    "paraphrase_raw_S",
    "neighborhood_S",
    "neighborhood_M",
    "neighborhood_unchanged",
)
# What the harmonic score is made of (Meng et al. 2022).
SCORE_PARTS = ("edit_S", "paraphrase_S", "neighborhood_S")
# The longest target is a name of a few words; the rest is room for the sentence to end.
MAX_TOKENS = 16
_FIGURE = ("value", "low", "high")
PACKAGES = ("numpy", "torch", "transformers", "tokenizers")
ROOT = Path(__file__).resolve().parent.parent


class Candidate(Protocol):
    """How one candidate scored after a prompt."""

    @property
    def token_logprobs(self) -> Sequence[float]: ...
    @property
    def token_is_argmax(self) -> Sequence[bool]: ...


class Generated(Protocol):
    """A greedy continuation, and whether memory was asked for it."""

    @property
    def text(self) -> str: ...
    @property
    def in_scope(self) -> bool: ...


class Base(Protocol):
    """What is read: a model that scores candidates and answers prompts."""

    def score(self, prompt: str, candidates: Sequence[str]) -> Sequence[Candidate]: ...
    def ask(self, prompt: str, max_tokens: int) -> Generated: ...


class System(Base, Protocol):
    """What is evaluated: a model whose facts can be written and forgotten."""

    def write(
        self, prompt: str, answer: str, fact_id: str, rephrasings: Sequence[str] = ()
    ) -> Any: ...
    def forget(self, fact_id: str) -> Any: ...


@dataclass(frozen=True, slots=True)
class Probe:
    """One prompt asked: the new and the true target scored, and a greedy continuation."""

    new: Candidate
    true: Candidate
    target: str
    text: str | None
    """None where nothing was generated."""
    in_scope: bool


@dataclass(frozen=True, slots=True)
class Observation:
    """All that one model said to the prompts of one record."""

    edit: Probe
    paraphrases: tuple[Probe, ...]
    paraphrases_raw: tuple[Probe, ...]
    neighbors: tuple[Probe, ...]


def run(
    system: System,
    base: Base,
    records: Sequence[EditRecord],
    *,
    mode: str = "single",
    seed: int = 0,
    max_tokens: int = MAX_TOKENS,
    progress: Callable[[str, int], None] = lambda stage, done: None,
) -> list[dict[str, Any]]:
    """The rows of the table, ``larimar`` and ``base``: every metric with its interval.

    Args:
        mode: ``single`` holds one edit at a time; ``batch`` writes all records first,
            then asks (dropping neighbours that are themselves edited), and forgets last.
        seed: of the bootstrap; generation is greedy.
        progress: told ``write`` or ``measure`` and the number of records done.

    Raises:
        InvalidArgument: unknown mode, no records, or a case id twice.
        LarimarError: from the system; what was written is forgotten if it still answers.
    """
    if mode not in MODES or not records or max_tokens < 1:
        raise InvalidArgument(
            f"mode {mode!r}, {len(records)} records, {max_tokens} tokens: give a mode of "
            f"{', '.join(MODES)}, at least one record and at least one token"
        )
    if len({record.case_id for record in records}) < len(records):
        raise InvalidArgument("two records have one case id: their facts would replace each other")
    pairs = []
    if mode == "batch":
        records = without_edited_neighbors(records)
        with _written(system, records, progress):
            for record in records:
                pairs.append(_observe_both(system, base, record, max_tokens))
                progress("measure", len(pairs))
    else:
        for record in records:
            with _written(system, [record]):
                pairs.append(_observe_both(system, base, record, max_tokens))
            progress("measure", len(pairs))
    return [
        _row("larimar", [(ours, plain) for ours, plain in pairs], seed),
        _row("base", [(plain, plain) for _, plain in pairs], seed),
    ]


def fact_id(record: EditRecord) -> str:
    """The fact id that a record is written under."""
    return f"{NAME}-{record.case_id}"


def observe(model: Base, record: EditRecord, max_tokens: int = MAX_TOKENS) -> Observation:
    """Asks a model every prompt of a record. Candidates are a space and the target."""

    generated = [record.prompt, *record.paraphrases, *record.neighbors]
    answers = dict(zip(generated, asked(model, generated, max_tokens), strict=True))

    def probe(prompt: str, true: str = record.target_true) -> Probe:
        scores = model.score(prompt, [f" {record.target_new}", f" {true}"])
        answer = answers.get(prompt)
        return Probe(
            new=scores[0],
            true=scores[1],
            target=record.target_new,
            text=answer.text if answer else None,
            in_scope=bool(answer and answer.in_scope),
        )

    neighbors = zip(record.neighbors, record.neighbor_answers, strict=True)
    return Observation(
        edit=probe(record.prompt),
        paraphrases=tuple(probe(prompt) for prompt in record.paraphrases),
        paraphrases_raw=tuple(probe(prompt) for prompt in record.paraphrases_raw),
        neighbors=tuple(probe(prompt, true) for prompt, true in neighbors),
    )


def asked(model: Base, prompts: Sequence[str], max_tokens: int) -> Sequence[Generated]:
    """Greedy continuations; in batches where the model has an `ask_many`."""
    many = getattr(model, "ask_many", None)
    if many is not None:
        return many(prompts, max_tokens)
    return [model.ask(prompt, max_tokens) for prompt in prompts]


def record_metrics(ours: Observation, plain: Observation) -> dict[str, float | None]:
    """Each metric of one record, a fraction: the mean over its probes, None without any.

    ``neighborhood_unchanged`` is the share of neighbours whose continuation is the base
    model's, letter for letter.
    """

    def over(probes: Sequence[Probe], measure: Callable[[Probe], float]) -> float | None:
        return metrics.record_mean([measure(probe) for probe in probes])

    edit, neighbors = [ours.edit], ours.neighbors
    same = [
        float(mine.text == theirs.text)
        for mine, theirs in zip(neighbors, plain.neighbors, strict=True)
    ]
    return {
        "edit_S": over(edit, _success),
        "edit_M": over(edit, _magnitude),
        "edit_argmax": over(edit, lambda probe: metrics.argmax_match(probe.new.token_is_argmax)),
        "edit_generated": over(edit, _generated),
        "paraphrase_S": over(ours.paraphrases, _success),
        "paraphrase_M": over(ours.paraphrases, _magnitude),
        "paraphrase_generated": over(ours.paraphrases, _generated),
        "paraphrase_raw_S": over(ours.paraphrases_raw, _success),
        "neighborhood_S": over(
            neighbors,
            lambda probe: metrics.neighborhood_success(
                probe.new.token_logprobs, probe.true.token_logprobs
            ),
        ),
        "neighborhood_M": over(
            neighbors,
            lambda probe: metrics.neighborhood_magnitude(
                probe.new.token_logprobs, probe.true.token_logprobs
            ),
        ),
        "neighborhood_unchanged": metrics.record_mean(same),
    }


def report(
    rows: list[dict[str, Any]],
    data: EditData,
    *,
    mode: str,
    seed: int,
    model_digest: str,
    max_tokens: int = MAX_TOKENS,
    probes: int | None = None,
) -> dict[str, Any]:
    """The report of a run, ready for JSON: rows, and all that is needed to repeat them.

    `probes` is the largest number of paraphrases and of neighbours a record was left with.
    """
    return {
        "name": NAME,
        "mode": mode,
        "max_tokens": max_tokens,
        "probes": probes,
        "data": {"file": data.file, "form": data.form, "sha256": data.sha256},
        "n": len(data.records),
        "seed": seed,
        "versions": _versions(),
        "commit": _commit(),
        "model_digest": model_digest,
        "machine": _machine(),
        "rows": rows,
    }


def markdown(report: dict[str, Any]) -> str:
    """The report as a Markdown table: a row a metric, a column a system, in percent."""
    rows = report["rows"]
    lines = [
        f"# CounterFact, {report['mode']} edits",
        "",
        f"{report['n']} records of {report['data']['file']} "
        f"(SHA-256 {report['data']['sha256'][:12]}); model {report['model_digest'][:12]}; "
        f"commit {report['commit'][:12]}; seed {report['seed']}. Percent; in brackets the "
        "95 % bootstrap interval over records.",
        "",
        "| metric | " + " | ".join(row["system"] for row in rows) + " |",
        "|---|" + "---|" * len(rows),
    ]
    for name in METRICS:
        lines.append(f"| {name} | " + " | ".join(cell(row["metrics"][name]) for row in rows) + " |")
    scores = ("-" if row["score"] is None else f"{row['score']:.1f}" for row in rows)
    lines.append("| score (harmonic mean of the three S) | " + " | ".join(scores) + " |")
    return "\n".join(lines) + "\n"


def cell(summary: dict[str, Any]) -> str:
    """One figure as text: the value and its interval, or a dash where nothing counted."""
    if summary["value"] is None:
        return "-"
    # Adding 0 after rounding turns -0.0 into 0.0.
    value, low, high = (f"{round(summary[part], 1) + 0.0:.1f}" for part in _FIGURE)
    return f"{value} [{low}, {high}]"


@contextmanager
def _written(
    system: System,
    records: Sequence[EditRecord],
    progress: Callable[[str, int], None] = lambda stage, done: None,
) -> Iterator[None]:
    """Holds the records' facts in memory; forgets those that were written, come what may."""
    written: list[str] = []
    try:
        for record in records:
            system.write(record.prompt, record.target_new, fact_id(record))
            written.append(fact_id(record))
            progress("write", len(written))
        yield
    finally:
        for name in written:
            system.forget(name)


def _observe_both(
    system: System, base: Base, record: EditRecord, max_tokens: int
) -> tuple[Observation, Observation]:
    return observe(system, record, max_tokens), observe(base, record, max_tokens)


def _row(name: str, pairs: list[tuple[Observation, Observation]], seed: int) -> dict[str, Any]:
    values = [record_metrics(ours, plain) for ours, plain in pairs]
    summaries = {
        metric: metrics.summarise((one[metric] for one in values), seed) for metric in METRICS
    }
    parts = [summaries[part].value for part in SCORE_PARTS]
    known = [part for part in parts if part is not None]
    return {
        "system": name,
        "metrics": {metric: summary.to_json() for metric, summary in summaries.items()},
        "score": metrics.harmonic_score(*known) if len(known) == len(parts) else None,
        "in_scope": {
            "edit": _scope_share([[ours.edit] for ours, _ in pairs], seed),
            "paraphrase": _scope_share([ours.paraphrases for ours, _ in pairs], seed),
            "neighborhood": _scope_share([ours.neighbors for ours, _ in pairs], seed),
        },
    }


def _scope_share(probes: list[Sequence[Probe]], seed: int) -> float | None:
    shares = (metrics.record_mean([float(probe.in_scope) for probe in some]) for some in probes)
    return metrics.summarise(shares, seed).value


def _success(probe: Probe) -> float:
    return metrics.success(probe.new.token_logprobs, probe.true.token_logprobs)


def _magnitude(probe: Probe) -> float:
    return metrics.magnitude(probe.new.token_logprobs, probe.true.token_logprobs)


def _generated(probe: Probe) -> float:
    return metrics.generated_match(probe.text or "", probe.target)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "larimar": larimar.__version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _commit() -> str:
    """The checkout's commit, marked when files differ from it; "unknown" outside of one."""
    try:
        head, changes = (
            subprocess.run(
                ["git", *command], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30
            ).stdout.strip()
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return f"{head}-dirty" if changes else head


def _machine() -> dict[str, Any]:
    torch = sys.modules.get("torch")
    return {
        "cpus": os.cpu_count(),
        "platform": f"{platform.system()} {platform.machine()}",
        "torch_threads": torch.get_num_threads() if torch else None,
    }
