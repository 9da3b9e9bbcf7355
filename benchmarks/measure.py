"""Turns, medians and aims: what every benchmark is measured and judged with.

Seconds on a shared machine mean little, and ratios within one run mean much: both sides
of a comparison take turns in the same run, and their medians are compared.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from larimar.errors import LarimarError

THREADS = 1
"""Tensor threads of the in-process side: what a service has by default."""


class Shape(StrEnum):
    """Backbones: the shipped model's, the paper's two, or one so small that any machine runs it."""

    small = "small"
    tiny = "tiny"
    gpt2_large = "1.3b"
    gpt_j = "6b"


@dataclass(frozen=True)
class Aim:
    """A limit that a measured number is held against."""

    limit: float
    at_least: bool

    def __str__(self) -> str:
        return f"at {'least' if self.at_least else 'most'} {self.limit:g}"

    def met(self, measured: float) -> bool:
        """Whether a number is on the right side of the limit, or on it."""
        return measured >= self.limit if self.at_least else measured <= self.limit


@dataclass
class Report:
    """What one benchmark found."""

    setting: dict[str, Any]
    """What was run: sizes, rounds, mode."""
    measured: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Spread of each number that was measured, by what it is."""
    compared: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Each ratio or difference, by what it is, with its aim if it has one."""

    def measure(self, what: str, unit: str, values: Sequence[float]) -> None:
        """Adds the spread of a number."""
        self.measured[what] = {"unit": unit, **spread(values)}

    def compare(self, what: str, value: float, aim: Aim | None = None, unit: str = "") -> None:
        """Adds a comparison; judged, where there is an aim."""
        self.compared[what] = {"value": value, "unit": unit}
        if aim is not None:
            self.compared[what] |= {"aim": str(aim), "met": aim.met(value)}

    def results(self) -> dict[str, Any]:
        """As it stands in the JSON file."""
        return {
            "setting": self.setting,
            "measured": self.measured,
            "compared": self.compared,
        }


def prepare_process() -> None:
    """Sets this process up as a service's: its tensor threads; and quiet while weights load."""
    import torch
    from transformers.utils import logging

    torch.set_num_threads(THREADS)
    logging.disable_progress_bar()


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Least, median and greatest of a number's measurements, and how many there were.

    Raises:
        LarimarError: there are none, or one is not finite.
    """
    if not values or not all(map(math.isfinite, values)):
        raise LarimarError("a benchmark has no finite number to report", "BAD_MEASUREMENT")
    return {
        "min": min(values),
        "median": statistics.median(values),
        "max": max(values),
        "count": len(values),
    }


def ratio_of_medians(upper: Sequence[float], lower: Sequence[float]) -> float:
    """Median of `upper` over median of `lower`.

    Raises:
        LarimarError: one has no finite numbers, or the lower median is not positive.
    """
    divisor = spread(lower)["median"]
    if divisor <= 0:
        raise LarimarError("a benchmark measured no time at all", "BAD_MEASUREMENT")
    return spread(upper)["median"] / divisor


def in_turns(
    sides: Mapping[str, Callable[[], Any]], rounds: int, told: Callable[[str], None]
) -> dict[str, list[Any]]:
    """What each side returned in each round; the order of the sides is turned round each time.

    Args:
        told: hears which round has begun.
    """
    found: dict[str, list[Any]] = {name: [] for name in sides}
    for number in range(rounds):
        told(f"round {number + 1} of {rounds}")
        for name in turned(list(sides), number):
            found[name].append(sides[name]())
    return found


def turned(names: list[str], turn: int) -> list[str]:
    """The names in order, in every odd turn in reverse: a drift of the machine hits both alike."""
    return names[::-1] if turn % 2 else names


def seconds_of(call: Callable[[], Any]) -> float:
    """Wall-clock seconds of a call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
