"""Forgetting as [L] Table 4 sets it, on the memory alone: N in {1, K, 2 K}, a tenth forgotten.

A fact counts as recalled when, of all N values that were ever written, the nearest to the
read-out is its own. What is left of forgotten facts is compared with a bank that never had
them: the read-outs must be the same bits.

N facts, K slots, C value size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.curves import COLOURS, CurveReport, panels
from benchmarks.latents import (
    Latents,
    edit_texts,
    encoded,
    forgotten,
    nearest_values,
    payloads,
    written,
)
from benchmarks.measure import Aim, prepare_process
from larimar.errors import FailedPrecondition
from larimar.memory import BankState

SLOTS, QUICK_SLOTS = 512, 32
ADDRESSINGS = ("slots", "pinv", "gaussian")
FORGET_EVERY = 10
"""Every tenth fact is forgotten, the first among them."""
MOST_RETAINED = 300
"""Retained facts that are asked for, spread evenly."""


def run(quick: bool, use_ray: bool, told: Callable[[str], None]) -> CurveReport:
    """Shares of forgotten and of retained facts that are recalled, by addressing and N.

    Raises:
        NotFound: there is no evaluation data.
    """
    prepare_process()
    slots = QUICK_SLOTS if quick else SLOTS
    latents = encoded(edit_texts(2 * slots), told)
    report = CurveReport(
        {"K": slots, "D": latents.prompts_ND.shape[1], "C": latents.values_NC.shape[1]}
        | {"forget_every": FORGET_EVERY}
    )
    for addressing in ADDRESSINGS:
        for count in (1, slots, 2 * slots):
            told(f"{addressing}: N = {count}")
            report.points.append(forgetting_point(latents, addressing, slots, count))
    for point in report.points:
        what = f"{point['addressing']}, N = {point['facts']}"
        report.compare(f"{what}: forgotten, before", point["forgotten_before"])
        report.compare(f"{what}: forgotten, after", point["forgotten_after"])
        if point["retained"] is not None:
            report.compare(f"{what}: retained", point["retained"])
    report.compare(
        "banks that differ from one that never had the facts",
        sum(not point["equal_to_never_written"] for point in report.points),
        Aim(0, at_least=False),
    )
    return report


def forgetting_point(latents: Latents, addressing: str, slots: int, count: int) -> dict[str, Any]:
    """Writes `count` facts, forgets every tenth, and asks for both kinds by their own prompts.

    `never` is the share of the forgotten facts that a bank that never had them gives back:
    values of like facts are alike, so a read-out can be nearest to one that is not there.
    """
    config = latents.config(addressing, slots if addressing != "slots" else 0)
    facts = payloads(config, latents, count)
    gone = np.arange(0, count, FORGET_EVERY)
    kept = np.setdiff1d(np.arange(count), gone)
    asked = kept[np.linspace(0, len(kept) - 1, min(len(kept), MOST_RETAINED)).astype(int)]
    values_NC = latents.values_NC[:count]

    bank = BankState(config, ("memory",))
    written(bank, facts)
    before = recalled(bank, latents, gone, values_NC)
    forgotten(bank, [facts[n] for n in gone])
    never = BankState(config, ("memory",))
    written(never, [facts[n] for n in kept])

    everybody = np.concatenate([gone, asked])
    same_reads = (
        readouts(bank, latents, everybody).tobytes()
        == readouts(never, latents, everybody).tobytes()
    )
    return {
        "addressing": addressing,
        "facts": count,
        "forgotten": len(gone),
        "forgotten_before": before,
        "forgotten_after": recalled(bank, latents, gone, values_NC),
        "never": recalled(never, latents, gone, values_NC),
        "retained": recalled(bank, latents, asked, values_NC) if len(kept) else None,
        "equal_to_never_written": same_reads
        and bank.digest() == never.digest()
        and bank.folded_sha256() == never.folded_sha256(),
        "digest": bank.digest(),
    }


def recalled(
    bank: BankState, latents: Latents, places: Sequence[int] | np.ndarray, values_NC: np.ndarray
) -> float:
    """The share of these facts whose own value is the nearest to what their prompt reads."""
    return float((nearest_values(readouts(bank, latents, places), values_NC) == places).mean())


def readouts(bank: BankState, latents: Latents, places: Sequence[int] | np.ndarray) -> np.ndarray:
    """What the prompts of these facts read, float32 (Q, C); zeros out of an empty bank."""
    try:
        return np.stack([out.value for out in bank.read(latents.prompts_ND[places])])
    except FailedPrecondition as error:
        if error.reason != "EMPTY_BANK":
            raise
        return np.zeros((len(places), latents.values_NC.shape[1]), np.float32)


def plot(document: dict[str, Any], path: Path) -> None:
    """Recall before and after, and of what was kept: a group of bars for each N."""
    results = document["results"]
    bars = (
        ("forgotten_before", "the forgotten, before"),
        ("forgotten_after", "the forgotten, after"),
        ("never", "the forgotten, never written"),
        ("retained", "the retained, after"),
    )
    width = 0.8 / len(bars)
    with panels(len(ADDRESSINGS), path) as axes:
        for axis, addressing in zip(axes, ADDRESSINGS, strict=True):
            points = [one for one in results["points"] if one["addressing"] == addressing]
            for number, (key, label) in enumerate(bars):
                heights = [one[key] for one in points]
                places = [n + (number - 1.5) * width for n in range(len(points))]
                drawn = [height or 0.0 for height in heights]
                axis.bar(places, drawn, width * 0.92, label=label, color=COLOURS[number])
                for x, height in zip(places, heights, strict=True):
                    text = "none" if height is None else f"{height:.2f}"
                    axis.text(x, (height or 0) + 0.015, text, ha="center", size=7, rotation=90)
            axis.set_xticks(range(len(points)), [f"N = {one['facts']}" for one in points])
            axis.set_ylim(0, 1.18)
            axis.set_title(
                f"{addressing}" + f", K = {results['setting']['K']}" * (addressing != "slots")
            )
            axis.set_ylabel("recalled (share of facts)")
            axis.set_xlabel("facts written")
        axes[-1].legend(fontsize=8, loc="upper right")
