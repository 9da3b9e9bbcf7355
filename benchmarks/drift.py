"""The paper's recursion on random programs of writes and forgets, against exact sums.

Two questions. How far is M, kept up by [L] equations 2-4 in float32 and float64, from a direct
solve over the facts that are live? And what does a forget leave, when M interpolates?

N facts, K slots, C value size. Facts are random; both sides get the same fixed-point numbers.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.curves import CurveReport, curve, panels, style
from benchmarks.measure import Aim, prepare_process
from larimar.algebra import (
    exact_sums,
    pseudo_inverse,
    sequential_write,
    solve_memory,
    to_fixed,
)
from larimar.defaults import RIDGE

SLOTS, VALUES = 128, 192
STEPS, QUICK_STEPS = 2000, 60
EVERY, QUICK_EVERY = 100, 20
"""Steps between two looks at the memory."""
PROGRAMS, QUICK_PROGRAMS = 3, 2
MOST_LIVE = 2 * SLOTS
"""Live facts that a program stays under: up to twice what interpolates."""
MOST_AT_ONCE = 8
"""Facts of one step."""
RIDGES = (1e-2, 1e-6)
"""lam of C_0 = lam I, relative to trace(C) / K of MOST_LIVE / 2 facts: the bank's, and little."""
BITS = 14
ABOVE = 1e62
"""Top of the figure: its legend stands above every curve."""
BROKEN = 1e30
"""A distance that is no number any more, as it is reported."""
PRECISIONS = {"float32": torch.float32, "float64": torch.float64}
FILLS = (0.125, 0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0)
QUICK_FILLS = (0.5, 1.5)
"""N / K at which one fact is forgotten."""

Step = tuple[int, list[int]]


class Facts:
    """Random facts, the same for everybody: addresses (N, K) and values (N, C), rounded once."""

    def __init__(self, count: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.a_NK = to_fixed(rng.standard_normal((count, SLOTS)) / math.sqrt(SLOTS), BITS)
        self.v_NC = to_fixed(rng.standard_normal((count, VALUES)), BITS)

    def floats(self, places: Sequence[int], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """W and Z of these facts; float32 holds their 18 bits exactly."""
        scale = math.ldexp(1.0, -BITS)
        rows = torch.tensor(list(places))
        return (self.a_NK[rows] * scale).to(dtype), (self.v_NC[rows] * scale).to(dtype)

    def sums(self, places: Sequence[int]) -> tuple[Tensor, Tensor]:
        """C and B of these facts as whole numbers, from nothing."""
        rows = torch.tensor(sorted(places), dtype=torch.long)
        return exact_sums(self.a_NK[rows], self.v_NC[rows])


def program(steps: int, seed: int) -> list[Step]:
    """Writes (1) and forgets (-1) of up to MOST_AT_ONCE facts; a fact is never written again."""
    rng = np.random.default_rng(seed)
    live: list[int] = []
    made, found = 0, []
    for _ in range(steps):
        count = int(rng.integers(1, MOST_AT_ONCE + 1))
        if len(live) + count > MOST_LIVE or (len(live) > count and rng.random() < 0.5):
            gone = [live.pop(int(rng.integers(len(live)))) for _ in range(min(count, len(live)))]
            found.append((-1, gone))
        else:
            new = list(range(made, made + count))
            made += count
            live += new
            found.append((1, new))
    return found


def run(quick: bool, use_ray: bool, told: Callable[[str], None]) -> CurveReport:
    """Drift over the steps of random programs, and what is left of a forgotten fact by N / K."""
    prepare_process()
    steps, every, programs = (
        (QUICK_STEPS, QUICK_EVERY, QUICK_PROGRAMS) if quick else (STEPS, EVERY, PROGRAMS)
    )
    report = CurveReport(
        {"K": SLOTS, "C": VALUES, "steps": steps, "programs": programs, "ridges": list(RIDGES)}
    )
    for seed in range(programs):
        told(f"program {seed + 1} of {programs}, {steps} steps")
        report.points += drift_points(seed, steps, every)
    for point in report.points:
        point["kind"] = "drift"
    for fill in QUICK_FILLS if quick else FILLS:
        told(f"forgetting at N / K = {fill:g}")
        report.points.append({"kind": "forget", **forget_point(fill)})
    conclude(report)
    return report


def drift_points(seed: int, steps: int, every: int) -> list[dict[str, Any]]:
    """Every `every` steps of one program, the relative distance of each M from the direct solve.

    Exact sums are compared in bytes with those of the live facts, summed up from nothing.
    """
    todo = program(steps, seed)
    facts = Facts(1 + max(max(places) for _, places in todo), seed)
    unit = MOST_LIVE / 2 / SLOTS  # trace(C) / K of addresses of length 1
    memories = {
        (name, ridge): (
            torch.zeros(SLOTS, VALUES, dtype=dtype),
            ridge * unit * torch.eye(SLOTS, dtype=dtype),
        )
        for name, dtype in PRECISIONS.items()
        for ridge in RIDGES
    }
    c_KK = torch.zeros(SLOTS, SLOTS, dtype=torch.int64)
    b_KC = torch.zeros(SLOTS, VALUES, dtype=torch.int64)
    live: set[int] = set()
    points = []
    for number, (sign, places) in enumerate(todo, start=1):
        for (name, ridge), (m_KC, lam_c_KK) in memories.items():
            w, z = facts.floats(places, PRECISIONS[name])
            memories[name, ridge] = sequential_write(m_KC, lam_c_KK, w, z, sign)
        added_KK, added_KC = facts.sums(places)
        c_KK += sign * added_KK
        b_KC += sign * added_KC
        live = live | set(places) if sign > 0 else live - set(places)
        if number % every:
            continue
        fresh = facts.sums(sorted(live))
        different = int((c_KK != fresh[0]).sum() + (b_KC != fresh[1]).sum())
        common = {"program": seed, "step": number, "live": len(live)}
        points.append(
            {**common, "of": "exact sums", "ridge": None, "error": float(different)}
            | {"sha256": sha256(c_KK, b_KC), "sha256_of_live": sha256(*fresh)}
        )
        for (name, ridge), (m_KC, _) in memories.items():
            direct = direct_solve(facts, sorted(live), ridge * unit)
            points.append({**common, "of": name, "ridge": ridge, "error": apart(m_KC, direct)})
    return points


def direct_solve(facts: Facts, places: Sequence[int], lam: float) -> Tensor:
    """(W^T W + lam I)^{-1} W^T Z over these facts, float64."""
    w, z = facts.floats(places, torch.float64)
    return torch.linalg.solve(w.mT @ w + lam * torch.eye(SLOTS, dtype=torch.float64), w.mT @ z)


def forget_point(fill: float) -> dict[str, Any]:
    """What is read at the address of one of N = fill K facts after it was forgotten.

    Each number is the distance of the read-out from the forgotten value, relative to its length:
    0 is perfect recall, and a memory that never had the fact is some way off.

    - `recursion`: M = W^+ Z without ridge, then equations 2-4 with alpha = -1; C_i is singular for
      N <= K and its pseudo-inverse stands for the inverse.
    - `exact sums`: the fact's products subtracted, M solved with the bank's ridge.
    - `never written`: M solved from the sums of the other facts.
    """
    count = round(fill * SLOTS)
    facts = Facts(count, seed=count)
    everybody, others = range(count), range(1, count)
    w, z = facts.floats(everybody, torch.float64)
    m_KC = pseudo_inverse(w) @ z
    gone_w, gone_z = w[:1], z[:1]
    left_KK = w.mT @ w - gone_w.mT @ gone_w
    m_KC = m_KC - pseudo_inverse(left_KK) @ gone_w.mT @ (gone_z - gone_w @ m_KC)

    (all_KK, all_KC), (gone_KK, gone_KC) = facts.sums(everybody), facts.sums([0])
    ours = solve_memory(all_KK - gone_KK, all_KC - gone_KC, BITS, BITS, RIDGE)
    never_KK, never_KC = facts.sums(others)
    never = solve_memory(never_KK, never_KC, BITS, BITS, RIDGE)
    return {
        "fill": count / SLOTS,
        "facts": count,
        "recursion": apart(gone_w @ m_KC, gone_z),
        "exact sums": apart(gone_w @ ours, gone_z),
        "never written": apart(gone_w @ never, gone_z),
        "equal_to_never_written": torch.equal(ours, never),
    }


def apart(a: Tensor, b: Tensor) -> float:
    """|a - b| / |b|, Frobenius, in float64; BROKEN where a is not finite, or further off."""
    distance = float(torch.linalg.norm(a.double() - b.double()) / torch.linalg.norm(b.double()))
    return min(distance, BROKEN) if math.isfinite(distance) else BROKEN


def sha256(*sums: Tensor) -> str:
    """SHA-256, in hex, of sums as little-endian int64."""
    hasher = hashlib.sha256()
    for one in sums:
        hasher.update(one.numpy().astype("<i8").tobytes())
    return hasher.hexdigest()


def conclude(report: CurveReport) -> None:
    """Adds the worst drift, by precision and ridge, and the counts that must be 0."""
    drift = [point for point in report.points if point["kind"] == "drift"]
    for name in PRECISIONS:
        for ridge in RIDGES:
            _, errors = curve(drift, "step", "error", of=name, ridge=ridge)
            report.compare(f"recursion in {name}, ridge {ridge:g}: worst error of M", max(errors))
    ours = [point for point in drift if point["of"] == "exact sums"]
    differing = sum(point["sha256"] != point["sha256_of_live"] for point in ours)
    none = Aim(0, at_least=False)
    report.compare(f"exact sums: states of {len(ours)} that differ in a byte", differing, none)
    forgets = [point for point in report.points if point["kind"] == "forget"]
    report.compare(
        "exact sums: forgets that left a trace",
        sum(not point["equal_to_never_written"] for point in forgets),
        none,
    )
    kept = [point["recursion"] for point in forgets if point["fill"] <= 1]
    report.compare("recursion, N <= K: largest distance from the forgotten value", max(kept))


def plot(document: dict[str, Any], path: Path) -> None:
    """Left: drift over steps. Right: distance of a read-out from the forgotten value."""
    points = document["results"]["points"]
    drift = [point for point in points if point["kind"] == "drift"]
    forgets = [point for point in points if point["kind"] == "forget"]
    with panels(2, path) as (left, right):
        for number, (name, ridge) in enumerate((n, r) for n in PRECISIONS for r in RIDGES):
            for seed in {point["program"] for point in drift}:
                x, y = curve(drift, "step", "error", of=name, ridge=ridge, program=seed)
                label = f"recursion, {name}, ridge {ridge:g}" if seed == 0 else None
                left.plot(x, y, label=label, **style(number))
        left.plot([], [], " ", label="exact sums: 0 (not on a log scale)")
        left.axhline(BROKEN, color="grey", linestyle=":", linewidth=1)
        left.text(60, BROKEN / 1e7, "no number any more", color="dimgrey", size=8)
        left.set_yscale("log")
        left.set_ylim(1e-17, ABOVE)
        left.set_xlabel("steps of writes and forgets")
        left.set_ylabel("distance of M from the direct solve\n(relative, no unit)")
        left.set_title(f"Drift, K = {SLOTS}, {document['results']['setting']['programs']} programs")
        left.legend(fontsize=8, loc="upper left")
        names = ("recursion", "never written", "exact sums")
        for number, name in enumerate(names):
            x, y = curve(forgets, "fill", name)
            look = style(number) | {
                "markersize": (4, 9, 4)[number],
                "linestyle": ("-", "-", "--")[number],
            }
            right.plot(x, y, label=name, **look)
        right.axvline(1, color="grey", linestyle=":", linewidth=1)
        right.set_yscale("log")
        right.set_xlabel("facts over slots, N / K")
        right.set_ylabel("read-out's distance from the forgotten\nvalue (relative; 0: recalled)")
        right.set_title("One fact forgotten, without ridge in the recursion")
        right.legend(fontsize=8)
