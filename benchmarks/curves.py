"""Curves beside the numbers of a benchmark, and how they are drawn."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measure import Report

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, told apart with any colour vision."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
"""One a curve, beside its colour: printed in grey they stay apart."""
DOTS_PER_INCH = 110
PALETTE = 64
"""Colours of the file: enough for smooth edges, a third of its size."""
PANEL_INCHES = (5.4, 3.9)


@dataclass
class CurveReport(Report):
    """A report with curves: points of numbers with names."""

    points: list[dict[str, Any]] = field(default_factory=list)

    def results(self) -> dict[str, Any]:
        """As it stands in the JSON file."""
        return super().results() | {"points": self.points}


def curve(points: list[dict[str, Any]], x: str, y: str, **names: Any) -> tuple[list, list]:
    """The points that have these names, as x and y in order of x."""
    chosen = [point for point in points if all(point[key] == one for key, one in names.items())]
    chosen.sort(key=lambda point: point[x])
    return [point[x] for point in chosen], [point[y] for point in chosen]


def style(number: int) -> dict[str, Any]:
    """Colour and marker of a figure's curve."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "markersize": 4,
        "linewidth": 1.4,
    }


@contextmanager
def panels(count: int, path: Path) -> Iterator[Any]:
    """The axes of a figure, side by side; written to a PNG file at the end."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot
    from PIL import Image

    width, height = PANEL_INCHES
    figure, axes = pyplot.subplots(1, count, figsize=(count * width, height), squeeze=False)
    try:
        yield axes[0]
        for one in axes[0]:
            one.grid(alpha=0.3)
        figure.tight_layout()
        drawn = io.BytesIO()
        figure.savefig(drawn, dpi=DOTS_PER_INCH)
        Image.open(drawn).convert("RGB").quantize(PALETTE).save(path, optimize=True)
    finally:
        pyplot.close(figure)
