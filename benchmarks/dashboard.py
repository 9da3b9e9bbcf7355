"""``python -m benchmarks.dashboard``: the Grafana dashboard's panels, drawn without Grafana.

Every query of infra/grafana/dashboard.json is put to a Prometheus server and drawn where the
dashboard has its panel, so that a machine without Grafana sees what an operator would.
"""

from __future__ import annotations

import io
import json
import re
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.curves import COLOURS, PALETTE
from benchmarks.prometheus import SCRAPE_S, Prometheus
from larimar.cli.console import emit_error, say
from larimar.cli.processes import checkout_root
from larimar.errors import LarimarError

POINTS = 240
"""Of a curve."""
LEGEND = 8
"""Series that a legend names, those with the most in them."""
UNIT_INCHES = (0.75, 0.42)
"""Width and height of a unit of the dashboard's grid."""
DOTS_PER_INCH = 72
RATE_SCRAPES = 4
"""Scrapes that a rate is taken over at least, as Grafana has it."""
_SCALES = {
    "s": ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms"), (float("inf"), 1.0, "s")),
    "bytes": ((2**20, 2**-10, "KiB"), (2**30, 2**-20, "MiB"), (float("inf"), 2**-30, "GiB")),
    "percentunit": ((float("inf"), 100.0, "%"),),
    "reqps": ((float("inf"), 1.0, "req/s"),),
    "ops": ((float("inf"), 1.0, "/s"),),
}
"""Unit -> (values below, their factor, its name)."""


def main(
    prometheus: Annotated[str, typer.Option(help="URL of the server.")] = "http://127.0.0.1:9090",
    minutes: Annotated[float, typer.Option(min=0.1, help="How far back from now.")] = 15.0,
    scrape: Annotated[int, typer.Option(min=1, help="Seconds between its scrapes.")] = 15,
    out: Annotated[Path, typer.Option(help="The PNG file.")] = Path("dashboard.png"),
) -> None:
    """Draws the dashboard from what a Prometheus server holds."""
    try:
        end = time.time()
        empty = render(Prometheus(prometheus), end - 60 * minutes, end, out, scrape_s=scrape)
    except LarimarError as error:
        emit_error(error.reason, error.message, False)
        raise typer.Exit(1) from error
    say(f"wrote {out}")
    if empty:
        say(f"without data: {', '.join(empty)}")


def render(
    server: Prometheus, begin: float, end: float, out: Path, *, scrape_s: int = SCRAPE_S
) -> list[str]:
    """Draws every panel of the dashboard; titles of those without data come back.

    Args:
        begin, end: seconds since 1970.
        out: the PNG file.
        scrape_s: seconds between two scrapes of the server.

    Raises:
        FailedPrecondition: BAD_QUERY, the server does not take one of the queries.
        Unavailable: NO_PROMETHEUS, nothing answers there.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot
    from PIL import Image

    file = checkout_root() / "infra" / "grafana" / "dashboard.json"
    shown = json.loads(file.read_text(encoding="utf-8"))["panels"]
    rows = max(one["gridPos"]["y"] + one["gridPos"]["h"] for one in shown)
    width, height = 24 * UNIT_INCHES[0], rows * UNIT_INCHES[1]
    figure = pyplot.figure(figsize=(width, height))
    step = max(1.0, (end - begin) / POINTS)
    interval = f"{max(RATE_SCRAPES * scrape_s, round(step))}s"
    empty = []
    try:
        for panel in shown:
            at = panel["gridPos"]
            if panel["type"] == "row":
                figure.text(
                    0.005,
                    1 - (at["y"] + 0.8) / rows,
                    panel["title"],
                    fontsize=13,
                    weight="bold",
                )
                continue
            box = (
                at["x"] / 24 + 0.03,
                1 - (at["y"] + at["h"] - 0.95) / rows,
                at["w"] / 24 - 0.04,
                (at["h"] - 1.9) / rows,
            )
            axis = figure.add_axes(box)
            axis.set_title(panel["title"], fontsize=9, loc="left")
            found = []
            for target in panel["targets"]:
                query = target["expr"].replace("$__rate_interval", interval)
                told = target.get("legendFormat", "")
                if panel["type"] in ("stat", "table"):
                    found += [(_named(told, one), one) for one in server.now(query)]
                else:
                    series = server.series(query, begin, end, step)
                    found += [(_named(told, one), one) for one in series]
            unit = panel.get("fieldConfig", {}).get("defaults", {}).get("unit", "short")
            drawn = _KINDS[panel["type"]](axis, found, unit, begin)
            if not drawn:
                empty.append(panel["title"])
                axis.text(0.5, 0.5, "no data", ha="center", va="center", transform=axis.transAxes)
        held = io.BytesIO()
        figure.savefig(held, dpi=DOTS_PER_INCH)
        Image.open(held).convert("RGB").quantize(PALETTE).save(out, optimize=True)
    finally:
        pyplot.close(figure)
    return empty


def in_unit(value: float, unit: str) -> str:
    """A value as a panel shows it: 0.0123 s is "12.3 ms"."""
    factor, name = _scale(value, unit)
    return f"{value * factor:.3g} {name}".strip()


def _scale(value: float, unit: str) -> tuple[float, str]:
    """By how much to multiply values of about this size, and the name of what comes out."""
    for below, factor, name in _SCALES.get(unit, ((float("inf"), 1.0, ""),)):
        if abs(value) < below:
            return factor, name
    return 1.0, ""


def _named(told: str, series: dict[str, Any]) -> str:
    labels = series["metric"]
    return re.sub(r"\{\{(\w+)\}\}", lambda name: labels.get(name[1], ""), told)


def _points(series: dict[str, Any], begin: float) -> tuple[list[float], list[float]]:
    """Seconds since the beginning, and the values there that are numbers."""
    pairs = [(at - begin, float(value)) for at, value in series["values"]]
    pairs = [(at, value) for at, value in pairs if value == value and abs(value) != float("inf")]
    return [at for at, _ in pairs], [value for _, value in pairs]


_Found = list[tuple[str, dict[str, Any]]]


def _draw_timeseries(axis: Any, found: _Found, unit: str, begin: float) -> bool:
    curves = [(name, *_points(one, begin)) for name, one in found]
    curves = sorted((one for one in curves if one[1]), key=lambda one: -max(one[2]))
    if not curves:
        return False
    factor, name_of_unit = _scale(max(curves[0][2]), unit)
    for number, (name, at, values) in enumerate(curves):
        axis.plot(
            [second / 60 for second in at],
            [value * factor for value in values],
            color=COLOURS[number % len(COLOURS)],
            linestyle=("-", "--", ":", "-.")[number // len(COLOURS) % 4],
            linewidth=1.2,
            label=name if number < LEGEND else None,
        )
    if len(curves) > LEGEND:
        axis.plot([], [], linestyle="", label=f"and {len(curves) - LEGEND} more")
    axis.set_ylabel(name_of_unit, fontsize=8)
    axis.set_ylim(bottom=min(0.0, axis.get_ylim()[0]))
    axis.tick_params(labelsize=7)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=6, loc="upper left", framealpha=0.7)
    return True


def _draw_stat(axis: Any, found: _Found, unit: str, _: float) -> bool:
    axis.set_axis_off()
    for number, (name, one) in enumerate(found):
        x, value = (number + 0.5) / len(found), float(one["value"][1])
        big = name if unit == "short" and "version" in one["metric"] else in_unit(value, unit)
        axis.text(x, 0.62, big, ha="center", va="center", fontsize=12, transform=axis.transAxes)
        if big != name:
            axis.text(x, 0.15, name, ha="center", fontsize=7, transform=axis.transAxes)
    return bool(found)


def _draw_heatmap(axis: Any, found: _Found, unit: str, begin: float) -> bool:
    """Calls by the bucket that they fell into, over time: buckets count what is below them."""
    import numpy

    buckets = sorted((float(one["metric"]["le"]), one["values"]) for _, one in found)
    if not buckets:
        return False
    times = sorted({at for _, values in buckets for at, _ in values})
    below = numpy.zeros((len(buckets), len(times)))
    for row, (_, values) in enumerate(buckets):
        for at, value in values:
            below[row, times.index(at)] = float(value)
    within = numpy.diff(below, axis=0, prepend=0.0).clip(min=0.0)
    minutes = [(at - begin) / 60 for at in times]
    axis.pcolormesh(minutes, range(len(buckets)), within, cmap="cividis", shading="nearest")
    ends = ["more" if end == float("inf") else in_unit(end, unit) for end, _ in buckets]
    axis.set_yticks(range(0, len(buckets), 2), ends[::2], fontsize=6)
    axis.tick_params(axis="x", labelsize=7)
    return True


def _draw_table(axis: Any, found: _Found, _: str, __: float) -> bool:
    axis.set_axis_off()
    for row, (_, one) in enumerate(found):
        hidden = ("__name__", "instance", "job")
        labels = [
            f"{name} {value[:12]}" for name, value in one["metric"].items() if name not in hidden
        ]
        axis.text(0.0, 0.9 - 0.18 * row, ", ".join(labels), fontsize=7, transform=axis.transAxes)
    return bool(found)


_KINDS = {
    "timeseries": _draw_timeseries,
    "stat": _draw_stat,
    "heatmap": _draw_heatmap,
    "table": _draw_table,
}

if __name__ == "__main__":
    typer.run(main)
