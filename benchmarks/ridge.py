"""Recall of the right fact against the number of facts, for each ridge, through the peak.

Least squares over a fixed reference memory has its interpolation peak where the facts reach
the rank of their keys, min(K, D): the smaller the ridge, the higher. The facts are CounterFact
edits, the latents the shipped encoder's, and addresses, rounding, sums and reads the banks' own.

N facts, K slots, D prompt-latent size, Q queries.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.curves import CurveReport, curve, panels, style
from benchmarks.latents import Latents, edit_texts, encoded, nearest_values, payloads, written
from benchmarks.measure import prepare_process
from larimar.defaults import RIDGE
from larimar.memory import BankState
from larimar.sums import ExactSums, addresses_of

SLOTS, QUICK_SLOTS = 512, 64
COUNTS = (64, 128, 192, 256, 320, 384, 448, 512, 768, 1024, 1536, 2000)
QUICK_COUNTS = (32, 64, 96)
RIDGES = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1)
ADDRESSINGS = ("pinv", "gaussian")
QUERIES = 400
"""Facts asked for at each N, spread evenly over them: a share is known to within 0.025."""
PEAK = (0.5, 1.5)
"""What counts as near the peak: N between these times the rank of the keys."""
ASKED = ("exact", "rephrased")
PANELS = (("pinv", "exact"), ("pinv", "rephrased"), ("gaussian", "rephrased"))
"""What is drawn."""


def run(quick: bool, use_ray: bool, told: Callable[[str], None]) -> CurveReport:
    """Recall for each addressing, ridge and N, and the best ridge near the peak and overall.

    Raises:
        NotFound: there is no evaluation data.
    """
    prepare_process()
    counts, slots = (QUICK_COUNTS, QUICK_SLOTS) if quick else (COUNTS, SLOTS)
    latents = encoded(edit_texts(counts[-1]), told)
    rank = min(slots, latents.prompts_ND.shape[1])
    report = CurveReport(
        {"K": slots, "D": latents.prompts_ND.shape[1], "C": latents.values_NC.shape[1]}
        | {"rank_of_keys": rank, "queries": QUERIES, "default_ridge": RIDGE}
    )
    for addressing in ADDRESSINGS:
        told(f"{addressing}: {len(counts)} sizes, {len(RIDGES)} ridges")
        report.points += fixed_size_points(latents, addressing, slots, counts)
    told("slots")
    report.points += slots_points(latents, counts)
    for addressing in ADDRESSINGS:
        judge(report, addressing, rank)
        rows, share = crowding(latents, addressing, slots)
        report.compare(f"{addressing}: rows that weigh most for some prompt", rows)
        report.compare(f"{addressing}: prompts that share the commonest of them", share)
    return report


def fixed_size_points(
    latents: Latents, addressing: str, slots: int, counts: Sequence[int]
) -> list[dict[str, Any]]:
    """Recall out of one memory that grows from count to count, read with each ridge."""
    config = latents.config(addressing, slots)
    facts = payloads(config, latents, counts[-1])
    asked = {"exact": latents.prompts_ND, "rephrased": latents.rephrased_ND}
    w = {how: addresses_of(config, prompts, len(prompts)) for how, prompts in asked.items()}
    state = BankState(config, ("memory",))
    points = []
    for count in counts:
        written(state, facts[len(state) : count])
        places = asked_places(count)
        for ridge in RIDGES:
            sums = ExactSums(dataclasses.replace(config, ridge=ridge))
            sums.load(np.asarray(state.sums.c_KK), np.asarray(state.sums.b_KC))
            read = {how: sums.read(w[how][places]) for how in ASKED}
            points.append(point(latents, addressing, ridge, places, count, read))
    return points


def slots_points(latents: Latents, counts: Sequence[int]) -> list[dict[str, Any]]:
    """Recall out of a slots memory; it has no ridge."""
    config = latents.config("slots", 0)
    facts = payloads(config, latents, counts[-1])
    state = BankState(config, ("memory",))
    points = []
    for count in counts:
        written(state, facts[len(state) : count])
        places = asked_places(count)
        asked = {"exact": latents.prompts_ND, "rephrased": latents.rephrased_ND}
        read = {
            how: np.stack([out.value for out in state.read(prompts[places])])
            for how, prompts in asked.items()
        }
        points.append(point(latents, "slots", None, places, count, read))
    return points


def asked_places(count: int) -> np.ndarray:
    """The facts that are asked for: all, or QUERIES of them spread evenly."""
    return np.unique(np.linspace(0, count - 1, min(count, QUERIES)).astype(int))


def point(
    latents: Latents,
    addressing: str,
    ridge: float | None,
    places: np.ndarray,
    count: int,
    read: dict[str, np.ndarray],
) -> dict[str, Any]:
    """The share of read-outs whose nearest stored value is the right fact's."""
    values_NC = latents.values_NC[:count]
    right = {
        how: float((nearest_values(z_QC, values_NC) == places).mean()) for how, z_QC in read.items()
    }
    return {"addressing": addressing, "ridge": ridge, "facts": count} | right


def judge(report: CurveReport, addressing: str, rank: int) -> None:
    """Adds, by ridge, the worst recall near the peak and the means over N, and the best ridges."""
    near, overall = {}, {}
    for ridge in RIDGES:
        names = {"addressing": addressing, "ridge": ridge}
        counts, shares = curve(report.points, "facts", "rephrased", **names)
        _, exact = curve(report.points, "facts", "exact", **names)
        near[ridge] = min(
            share
            for count, share in zip(counts, shares, strict=True)
            if PEAK[0] * rank <= count <= PEAK[1] * rank
        )
        overall[ridge] = sum(shares) / len(shares)
        what = f"{addressing}, ridge {ridge:g}"
        report.compare(f"{what}: rephrased, worst near the peak", near[ridge])
        report.compare(f"{what}: rephrased, mean over N", overall[ridge])
        report.compare(f"{what}: exact, mean over N", sum(exact) / len(exact))
    report.compare(f"{addressing}: best ridge near the peak", max(near, key=near.__getitem__))
    report.compare(f"{addressing}: best ridge overall", max(overall, key=overall.__getitem__))


def crowding(latents: Latents, addressing: str, slots: int) -> tuple[int, float]:
    """How many reference rows have the largest weight for some prompt, and the commonest's share.

    Of the first `slots` prompts: rows that nobody is near to add nothing to what can be told apart.
    """
    prompts_ND = latents.prompts_ND[:slots]
    w_NK = addresses_of(latents.config(addressing, slots), prompts_ND, len(prompts_ND))
    owners = np.bincount(np.abs(w_NK).argmax(1))
    return int((owners > 0).sum()), float(owners.max() / len(prompts_ND))


def plot(document: dict[str, Any], path: Path) -> None:
    """Recall against N: a curve a ridge, and slots."""
    results = document["results"]
    points, setting = results["points"], results["setting"]
    with panels(len(PANELS), path) as axes:
        for axis, (addressing, how) in zip(axes, PANELS, strict=True):
            for number, ridge in enumerate(RIDGES):
                x, y = curve(points, "facts", how, addressing=addressing, ridge=ridge)
                axis.plot(x, y, label=f"ridge {ridge:g}", **style(number))
            x, y = curve(points, "facts", how, addressing="slots")
            axis.plot(x, y, label="slots", linestyle="--", **style(6))
            axis.axvline(setting["rank_of_keys"], color="grey", linestyle=":", linewidth=1)
            axis.text(
                setting["rank_of_keys"],
                1.04,
                "rank of the keys",
                color="dimgrey",
                size=8,
                ha="center",
            )
            axis.set_xscale("log", base=2)
            axis.set_ylim(0, 1.1)
            axis.set_title(f"{addressing}, K = {setting['K']}, {how} prompts")
            axis.set_xlabel("facts in memory, N")
            axis.set_ylabel("recall of the right fact (share of prompts)")
        axes[0].legend(fontsize=8, loc="lower left")
