"""Plots of a run from its metrics: losses, learning rate, and the weight of the KL term."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

_NOT_LOSSES = {"step", "tokens", "tokens_s", "rate", "beta"}
_SHARES = ("edit_", "paraphrase_")


def plot_run(out: Path) -> list[Path]:
    """Draws metrics.jsonl of a run's folder; returns the pictures."""
    import matplotlib

    matplotlib.use("Agg")
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    names = sorted({name for record in records for name in record})
    shares = [name for name in names if name.startswith(_SHARES)]
    losses = [name for name in names if name not in _NOT_LOSSES and name not in shares]
    pictures = [
        ("losses.png", "nats a token", losses),
        ("rate.png", "learning rate", ["rate"]),
        ("beta.png", "weight of the KL term", ["beta"]),
        ("evaluation.png", "share of records", shares),
    ]
    return [
        _plot(records, out / file, label, drawn)
        for file, label, drawn in pictures
        if any(name in names for name in drawn)
    ]


def _plot(records: Sequence[dict[str, float]], path: Path, label: str, names: list[str]) -> Path:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for name in names:
        points = [(record["step"], record[name]) for record in records if name in record]
        steps, values = zip(*points, strict=True)
        axes.plot(steps, values, "--" if name.startswith("held_") else "-", label=name)
    axes.set_xlabel("step")
    axes.set_ylabel(label)
    if len(names) > 1:
        axes.legend(fontsize="small", ncols=2)
    figure.savefig(path, dpi=120)
    return path
