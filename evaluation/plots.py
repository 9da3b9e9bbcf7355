"""What the figures of reports share: one look, for print, and the kinds that come again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SIZE_INCHES = (6.4, 4.0)
DPI = 200
# Okabe and Ito: told apart by readers of any colour vision; markers and dashes also in grey.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":", "-", "--", "-.")
_LOOK: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "lines.markersize": 4,
    "lines.linewidth": 1.4,
}


@dataclass(frozen=True)
class Curve:
    """One line of a figure."""

    label: str
    x: Sequence[float]
    metrics: Sequence[Mapping[str, Any]]
    """As in a report's row; one without a value is left out, one with bounds has a band."""
    level: bool = False
    """Whether it was measured once, for all x: drawn without markers."""


def save(draw: Callable[[Any], None], path: Path) -> Path:
    """Draws a figure in the common look and writes it."""
    import matplotlib
    from cycler import cycler
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**_LOOK, "axes.prop_cycle": cycler(color=list(COLORS))}):
        figure = Figure(figsize=SIZE_INCHES, layout="constrained")
        draw(figure)
        figure.savefig(path, dpi=DPI)
    return path


def draw_rows(figure: Any, rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    """Bars of each system's metrics, in percent, with their intervals.

    Colours that come again are hatched.
    """
    axes = figure.subplots()
    width = 0.8 / len(rows)
    for place, row in enumerate(rows):
        known = [(i, row["metrics"][name]) for i, name in enumerate(names)]
        known = [(i, one) for i, one in known if one["value"] is not None]
        values = [one["value"] for _, one in known]
        spread = list(zip(*(_below_and_above(one) for _, one in known), strict=True))
        at = [i + (place - (len(rows) - 1) / 2) * width for i, _ in known]
        axes.bar(
            at,
            values,
            width,
            yerr=spread or None,
            label=row["system"],
            hatch="//" if place >= len(COLORS) else None,
            capsize=1.5,
            error_kw={"elinewidth": 0.8, "ecolor": "0.5"},  # seen on black bars too
        )
        for x, value in zip(at, values, strict=True):
            if not value:
                axes.annotate("0", (x, 0), ha="center", va="bottom", fontsize=5)
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=8)
    axes.set_ylabel("percent")
    axes.grid(axis="x", visible=False)
    _legend_above(axes)


def _below_and_above(metric: Mapping[str, Any]) -> tuple[float, float]:
    """How far the interval reaches; 0 where there is none, or where rounding turns it over."""
    if metric["low"] is None:
        return 0.0, 0.0
    return max(0.0, metric["value"] - metric["low"]), max(0.0, metric["high"] - metric["value"])


def draw_curves(
    figure: Any, curves: Sequence[Curve], x_label: str, y_label: str, *, log_x: bool = False
) -> None:
    """Lines with markers, and their intervals as bands."""
    axes = figure.subplots()
    for place, curve in enumerate(curves):
        known = [
            (x, one)
            for x, one in zip(curve.x, curve.metrics, strict=True)
            if one["value"] is not None
        ]
        look = place % len(COLORS)
        axes.plot(
            [x for x, _ in known],
            [one["value"] for _, one in known],
            LINES[look],
            marker="" if curve.level else MARKERS[look],
            color=COLORS[look],
            label=curve.label,
        )
        banded = [(x, one) for x, one in known if one["low"] is not None]
        axes.fill_between(
            [x for x, _ in banded],
            [one["low"] for _, one in banded],
            [one["high"] for _, one in banded],
            color=COLORS[look],
            alpha=0.15,
            linewidth=0,
        )
    if log_x:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    _legend_above(axes)


def _legend_above(axes: Any) -> None:
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, fontsize=8, handlelength=3)
