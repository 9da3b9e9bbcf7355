"""The report of an experiment: JSON, a Markdown table and a figure, with all that repeats it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import larimar

PACKAGES = ("numpy", "torch", "transformers", "tokenizers", "sentence-transformers")
ROOT = Path(__file__).resolve().parent.parent
_FIGURE = ("value", "low", "high")


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
    """Stem of the files."""
    title: str
    out: Path
    body: Mapping[str, Any]
    """Ready for JSON: `provenance` and the experiment's own results."""
    tables: Sequence[Table]
    notes: Sequence[str] = ()
    """Sentences below the title: what was measured, and how."""
    draw: Callable[[Any], None] | None = None
    """Draws on a matplotlib figure; None where there is nothing to draw."""

    def markdown(self) -> str:
        """The report as Markdown."""
        parts = [f"# {self.title}\n", described(self.body) + "\n"]
        parts += [f"{note}\n" for note in self.notes]
        return "\n".join([*parts, *(table.markdown() for table in self.tables)])

    def write(self) -> list[Path]:
        """Writes NAME.json, NAME.md and, where there is something to draw, NAME.png."""
        self.out.mkdir(parents=True, exist_ok=True)
        texts = {
            "json": json.dumps(self.body, ensure_ascii=False, indent=2) + "\n",
            "md": self.markdown(),
        }
        written = []
        for suffix, text in texts.items():
            path = self.out / f"{self.name}.{suffix}"
            path.write_text(text, encoding="utf-8")
            written.append(path)
        if self.draw is not None:
            written.append(self._figure())
        return written

    def _figure(self) -> Path:
        from matplotlib.figure import Figure

        assert self.draw is not None
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        self.draw(figure)
        path = self.out / f"{self.name}.png"
        figure.savefig(path, dpi=120)
        return path


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
    return (
        f"{body['n']} records of {body['data']['file']} (SHA-256 {body['data']['sha256'][:12]}); "
        f"model {body['model_digest'][:12]}; commit {body['commit'][:12]}; seed {body['seed']}."
    )


def cell(summary: Mapping[str, Any]) -> str:
    """One figure as text: the value and its interval, or a dash where nothing counted."""
    if summary["value"] is None:
        return "-"
    # Adding 0 after rounding turns -0.0 into 0.0.
    value, low, high = (f"{round(summary[part], 1) + 0.0:.1f}" for part in _FIGURE)
    return f"{value} [{low}, {high}]"


def draw_rows(figure: Any, rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    """Bars of each system's metrics, in percent, with their intervals."""
    axes = figure.subplots()
    width = 0.8 / len(rows)
    for place, row in enumerate(rows):
        known = [(i, row["metrics"][name]) for i, name in enumerate(names)]
        known = [(i, one) for i, one in known if one["value"] is not None]
        values = [one["value"] for _, one in known]
        spread = [
            [one["value"] - one["low"] for _, one in known],
            [one["high"] - one["value"] for _, one in known],
        ]
        at = [i + (place - (len(rows) - 1) / 2) * width for i, _ in known]
        axes.bar(at, values, width, yerr=spread, label=row["system"], capsize=2)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=8)
    axes.set_ylabel("percent")
    axes.grid(axis="y", alpha=0.3)
    axes.legend()


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
