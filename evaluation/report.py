"""The report of an experiment: JSON, a Markdown table and figures, with all that repeats it.

report.json is an object with ``name``, ``data``, ``n``, ``seed``, ``versions``, ``commit``,
``model_digest``, ``machine`` and ``rows``. A row is ``{"system": ..., "metrics": {...}}``, with
whatever else tells it from others (``facts``, ``addressing``); a metric is
``{"value", "low", "high", "n"}``, the bounds null where there is no interval, all of it null where
nothing was counted. Names of metrics are those of evaluation/metric_names.py.
"""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import larimar
from evaluation import paper
from evaluation.metric_names import METRICS, PERCENT, SECONDS
from larimar.errors import InvalidArgument

PACKAGES = ("numpy", "torch", "transformers", "tokenizers", "sentence-transformers")
ROOT = Path(__file__).resolve().parent.parent
STEM = "report"
"""Of the JSON and Markdown files."""
REQUIRED = ("name", "data", "n", "seed", "versions", "commit", "model_digest", "machine", "rows")
_FIGURE = ("value", "low", "high")
Draw = Callable[[Any], None]
"""Draws on a matplotlib figure (evaluation/plots.py has what figures share)."""


@dataclass(frozen=True)
class Table:
    """A table of texts: its columns' names, and its rows."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""

    def markdown(self) -> str:
        """As Markdown, the first column to the left."""
        lines = [f"## {self.title}", ""] if self.title else []
        lines.append("| " + " | ".join(self.columns) + " |")
        lines.append("|---|" + "---|" * (len(self.columns) - 1))
        lines += ["| " + " | ".join(row) + " |" for row in self.rows]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Report:
    """What an experiment found, and where it goes."""

    name: str
    """Stem of the figure."""
    title: str
    out: Path
    body: Mapping[str, Any]
    """Ready for JSON: `provenance`, the rows, and whatever else the experiment found."""
    tables: Sequence[Table]
    notes: Sequence[str] = ()
    """Sentences below the title: what was measured, and how."""
    draw: Draw | None = None
    """Draws NAME.png; None where there is nothing to draw."""
    more_figures: Mapping[str, Draw] = field(default_factory=dict)
    """Draws others, by the stem of their files."""

    def all_notes(self) -> list[str]:
        """The notes, and what the paper's columns and lines are where a table has any."""
        heads = [
            head
            for table in self.tables
            for head in (*table.columns, *(row[0] for row in table.rows))
        ]
        quoted = any(head.startswith("[L]") for head in heads)
        return [*self.notes, *([paper.NOTE] if quoted else [])]

    def markdown(self) -> str:
        """The report as Markdown."""
        parts = [f"# {self.title}\n", described(self.body) + "\n"]
        parts += [f"{note}\n" for note in self.all_notes()]
        return "\n".join([*parts, *(table.markdown() for table in self.tables)])

    def write(self) -> list[Path]:
        """Writes report.json, report.md and the figures; says which.

        Raises:
            InvalidArgument: the body is not of the form above, or holds a number that is none
                (see `checked`). Nothing is written.
        """
        from evaluation.plots import save

        body = json.dumps(checked(self.body), ensure_ascii=False, indent=2, allow_nan=False)
        self.out.mkdir(parents=True, exist_ok=True)
        written = []
        for suffix, text in (("json", body + "\n"), ("md", self.markdown())):
            path = self.out / f"{STEM}.{suffix}"
            path.write_text(text, encoding="utf-8")
            written.append(path)
        figures = ({self.name: self.draw} if self.draw else {}) | dict(self.more_figures)
        return written + [save(draw, self.out / f"{stem}.png") for stem, draw in figures.items()]


def checked(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same body, if it is what a report must be.

    Raises:
        InvalidArgument: a field or a row's system is missing, a metric has no entry in
            evaluation/metric_names.py, or a number is not finite; the message names it.
    """
    missing = [name for name in REQUIRED if name not in body]
    if missing:
        raise InvalidArgument(f"a report without {', '.join(missing)}; see evaluation/report.py")
    for place, row in enumerate(body["rows"]):
        if not isinstance(row.get("system"), str) or not isinstance(row.get("metrics"), Mapping):
            raise InvalidArgument(f"row {place} of a report has no system, or no metrics")
        for name, found in row["metrics"].items():
            _check_metric(name, found, row["system"])
    _check_finite(body, "the report")
    return body


def _check_metric(name: str, found: Any, system: str) -> None:
    if name not in METRICS:
        raise InvalidArgument(f"metric {name} is unknown: add it to evaluation/metric_names.py")
    if not isinstance(found, Mapping) or set(found) != {*_FIGURE, "n"}:
        raise InvalidArgument(
            f"metric {name} of row {system} must have value, low, high and n: use "
            "metrics.summarise, or metrics.exactly where there is no interval"
        )
    _check_finite(found, f"metric {name} of row {system}")


def _check_finite(value: Any, where: str) -> None:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _check_finite(inner, f"{key} of {where}")
    elif isinstance(value, list | tuple):
        for inner in value:
            _check_finite(inner, where)
    elif isinstance(value, float) and not math.isfinite(value):
        raise InvalidArgument(f"{where} is {value}: look at what it was computed from")


def provenance(
    name: str, *, data: Mapping[str, Any], model_digest: str, n: int, seed: int, **settings: Any
) -> dict[str, Any]:
    """What repeats a run: data, model, versions, commit, machine, seed and the run's settings."""
    return {
        "name": name,
        **settings,
        "data": dict(data),
        "n": n,
        "seed": seed,
        "versions": _versions(),
        "commit": _commit(),
        "model_digest": model_digest,
        "machine": _machine(),
    }


def described(body: Mapping[str, Any]) -> str:
    """One sentence about a run's provenance."""
    commit, _, changed = body["commit"].partition("-")
    commit = commit[:12] + (" with changes" if changed else "")
    return (
        f"{body['n']} records of {body['data']['file']} (SHA-256 {body['data']['sha256'][:12]}); "
        f"model {body['model_digest'][:12]}; commit {commit}; seed {body['seed']}."
    )


def cell(summary: Mapping[str, Any], digits: int = 1) -> str:
    """One figure as text: the value and its interval, or a dash where nothing counted."""
    if summary["value"] is None:
        return "-"
    # Adding 0 after rounding turns -0.0 into 0.0.
    value, *interval = (
        f"{round(summary[part], digits) + 0.0:,.{digits}f}"
        for part in _FIGURE
        if summary[part] is not None
    )
    return f"{value} [{', '.join(interval)}]" if interval else value


def digits_of(metric: str) -> int:
    """Decimals that a table shows of a metric: percents 1, seconds 4, all else 3."""
    return {PERCENT: 1, SECONDS: 4}.get(METRICS[metric].unit, 3)


def metric_table(
    rows: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    quoted: Mapping[str, Mapping[str, str]] | None = None,
    *,
    heads: Sequence[str] | None = None,
    title: str = "",
) -> Table:
    """A line a metric, a column a row of the report, and the paper's columns beside them.

    Args:
        quoted: the paper's figures by column and metric (evaluation/paper.py).
        heads: of the rows' columns, where their systems do not tell them apart.
    """
    theirs = quoted or {}
    lines = [
        [
            name,
            *(
                cell(one["metrics"][name], digits_of(name)) if name in one["metrics"] else "-"
                for one in rows
            ),
            *(figures.get(name, "") for figures in theirs.values()),
        ]
        for name in names
    ]
    columns = ["metric", *(heads or [one["system"] for one in rows]), *theirs]
    return Table(columns, lines, title)


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
