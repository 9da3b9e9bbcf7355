"""What a load came to: latencies, errors, memory and what was lost, and the figures of it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.chaos import Found
from benchmarks.curves import COLOURS, CurveReport, curve, panels, style
from benchmarks.load_clients import Books, Sample
from benchmarks.load_watch import LAG, STAGES, Counts, Memory, histograms
from benchmarks.measure import Aim

KINDS = ("ask", "write", "forget")
PERCENTS = (50, 95, 99)
NONE = Aim(0, at_least=False)
EXHAUSTED = 8
"""gRPC's code of back-pressure."""
SPAN_S = 5
"""Seconds that a point of a figure is the mean of."""
SHOWN_STAGES = 12
"""Stages of a figure, those that take the most time."""


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which so many of a hundred lie; of few values, one of them."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


@dataclass
class LoadReport(CurveReport):
    """A report of a load."""

    def take_books(self, books: Books) -> None:
        """Latency by kind of call, errors by reason, and calls a second over time."""
        for kind in KINDS:
            times = [1000 * one.seconds for one in answered(books.samples, kind)]
            if times:
                self.measure(f"{kind}, as its client sees it", "ms", times)
                for percent in PERCENTS:
                    self.compare(f"{kind}, p{percent}", percentile(times, percent), unit="ms")
        done = [one for one in books.samples if not one.code]
        lasted = max((one.at_s + one.seconds for one in books.samples), default=1.0)
        self.compare("calls answered", len(done) / lasted, unit="/s")
        self.compare("longest time without an answer", longest_pause_s(done), unit="s")
        self._take_errors(books.samples)
        rates: dict[tuple[int, str], int] = defaultdict(int)
        for one in books.samples:
            kind = "refused" if one.code == EXHAUSTED else "failed" if one.code else one.kind
            rates[int(one.at_s + one.seconds), kind] += 1
        self.points += [
            {"what": "rate", "second": second, "kind": kind, "calls": calls}
            for (second, kind), calls in sorted(rates.items())
        ]

    def _take_errors(self, samples: list[Sample]) -> None:
        refused = [one for one in samples if one.code == EXHAUSTED]
        for (kind, reason), count in sorted(
            Counter((one.kind, one.reason) for one in samples if one.code).items()
        ):
            self.points.append({"what": "error", "kind": kind, "reason": reason, "count": count})
        self.compare("calls refused by back-pressure", len(refused))
        self.compare("of these without a retry hint", sum(not one.hinted for one in refused), NONE)
        others = sum(one.code not in (0, EXHAUSTED) for one in samples)
        disturbed = self.setting.get("mode") in ("kill", "overload")
        self.compare("calls with another error", others, None if disturbed else NONE)

    def take_metrics(self, before: Counts, after: Counts, **names: Any) -> None:
        """Time by stage and the followers' lag, as the services count them, where they do."""
        for one in histograms(before, after, STAGES):
            self.points.append({"what": "stage", **names, **one})
        for one in histograms(before, after, LAG):
            self.points.append({"what": "lag", **names, **one})
            if not names:
                self.compare(
                    f"{one.get('service', 'follower')} lag, p99", one["p99"], unit="versions"
                )

    def take_memory(self, memory: Memory) -> None:
        """Resident memory over time, and the most of it."""
        for name, size in sorted(memory.largest().items()):
            self.compare(f"most memory, {name}", size / 2**20, unit="MiB")
        self.points += [
            {"what": "memory", "second": at_s, "name": name, "bytes": size}
            for at_s, name, size in [*memory.points, *memory.totals()]
        ]

    def take_found(self, found: Found, books: Books, where: str = "") -> None:
        """What the logs say of what was acknowledged; `where` tells one pipeline from another."""
        self.compare(f"edits acknowledged{where}", found.acknowledged)
        for what, count in (
            ("acknowledged and lost", found.lost),
            ("events twice", found.twice),
            ("versions missing", found.missing),
            ("edits out of their client's order", books.out_of_order),
            ("edits never settled", books.unsettled),
            ("facts wrongly live or not", found.wrong_facts),
            ("replays that differ", found.mismatches),
        ):
            self.compare(f"{what}{where}", count, NONE)

    def take_disturbances(self, disturbed: list[tuple[float, str]]) -> None:
        """What was done to the pipeline, and when."""
        self.points += [
            {"what": "disturbed", "second": at_s, "name": name} for at_s, name in disturbed
        ]

    def take_overload(self, books: Books, before_s: float, rate: float, recovery_s: float) -> None:
        """Rates before and within an overload, and how soon it was over."""
        within = [one for one in books.samples if one.at_s >= before_s]
        self.compare("calls kept up by the closed loop", rate, unit="/s")
        lasted = max((one.at_s + one.seconds for one in within), default=before_s) - before_s
        done = sum(not one.code for one in within)
        self.compare("answered within the overload", done / lasted if lasted else 0.0, unit="/s")
        self.compare("until it is well again", recovery_s, unit="s")

    def take_point(self, clients: int, replicas: int, books: Books, seconds: float) -> None:
        """Throughput and latency at a number of clients and replicas."""
        times = [1000 * one.seconds for one in answered(books.samples, "ask")]
        done = sum(not one.code for one in books.samples)
        self.points.append(
            {
                "what": "sweep",
                "clients": clients,
                "replicas": replicas,
                "calls_a_second": done / seconds,
                "ask_p50_ms": percentile(times, 50) if times else None,
                "ask_p99_ms": percentile(times, 99) if times else None,
            }
        )
        self.compare(f"{clients} clients, {replicas} replicas", done / seconds, unit="/s")


def longest_pause_s(samples: list[Sample]) -> float:
    """The longest time in which no call of any client was answered."""
    ends = sorted(one.at_s + one.seconds for one in samples)
    return max((after - before for before, after in pairwise(ends)), default=0.0)


def answered(samples: list[Sample], kind: str) -> list[Sample]:
    """The calls of a kind that were answered."""
    return [one for one in samples if one.kind == kind and not one.code]


def draw(document: dict[str, Any], path: Path) -> None:
    """Throughput beside where the time goes: of a sweep by clients, else over time."""
    points = document["results"]["points"]
    drawn = {what: [one for one in points if one["what"] == what] for what in _PANELS}
    shown = [what for what, found in drawn.items() if found]
    with panels(len(shown), path) as axes:
        for axis, what in zip(axes, shown, strict=True):
            _PANELS[what](axis, drawn[what], points)


def _draw_sweep(axis: Any, points: list[dict[str, Any]], _: list[dict[str, Any]]) -> None:
    for number, replicas in enumerate(sorted({one["replicas"] for one in points})):
        x, y = curve(points, "clients", "calls_a_second", replicas=replicas)
        axis.plot(x, y, label=f"{replicas} replicas", **style(number))
    axis.set(xlabel="clients", ylabel="calls answered a second", ylim=(0, None))
    axis.set_xscale("log", base=2)
    axis.legend()


def _draw_rate(axis: Any, points: list[dict[str, Any]], all_points: list[dict[str, Any]]) -> None:
    spans = 1 + max(one["second"] for one in points) // SPAN_S
    for number, kind in enumerate(sorted({one["kind"] for one in points})):
        rates = [0.0] * spans  # a second without a call has no point
        for one in points:
            if one["kind"] == kind:
                rates[one["second"] // SPAN_S] += one["calls"] / SPAN_S
        x = [(span + 0.5) * SPAN_S for span in range(spans)]
        axis.plot(x, rates, label=kind, color=COLOURS[number % len(COLOURS)], linewidth=1.2)
    for one in all_points:
        if one["what"] == "disturbed":
            axis.axvline(one["second"], color="#999999", linestyle=":", linewidth=1)
            axis.text(one["second"], axis.get_ylim()[1], one["name"], rotation=90, fontsize=6)
    axis.set(xlabel="seconds", ylabel=f"calls a second, over {SPAN_S} s", ylim=(0, None))
    axis.legend(fontsize=7)


def _draw_stages(axis: Any, points: list[dict[str, Any]], _: list[dict[str, Any]]) -> None:
    swept = ("clients", "replicas")
    last = [one for one in points if all(one.get(by) == points[-1].get(by) for by in swept)]
    most = sorted(last, key=lambda one: -one["sum"])[:SHOWN_STAGES][::-1]
    axis.barh(
        [one.get("stage", "") for one in most], [one["sum"] for one in most], color=COLOURS[0]
    )
    axis.set(xlabel="seconds spent in the stage, all calls together")


def _draw_memory(axis: Any, points: list[dict[str, Any]], _: list[dict[str, Any]]) -> None:
    for number, name in enumerate(sorted({one["name"] for one in points})):
        x, y = curve(points, "second", "bytes", name=name)
        look = {"color": COLOURS[number % len(COLOURS)], "linestyle": "-:"[number // len(COLOURS)]}
        axis.plot(x, [one / 2**20 for one in y], label=name, linewidth=1.2, **look)
    axis.set(xlabel="seconds", ylabel="resident MiB", ylim=(0, None))
    axis.legend(fontsize=7)


_PANELS = {
    "sweep": _draw_sweep,
    "rate": _draw_rate,
    "stage": _draw_stages,
    "memory": _draw_memory,
}
