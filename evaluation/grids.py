"""Options of experiments that go over a grid: addressings, sizes, levels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, TypeVar

import typer

from evaluation.report import Table, cell, digits_of
from larimar.defaults import DEFAULT_SLOTS
from larimar.errors import InvalidArgument
from larimar.memory import ADDRESSINGS

Number = TypeVar("Number", int, float)

Addressing = Annotated[
    str, typer.Option("--addressing", help="Of the bank: slots, pinv, gaussian, or some of them.")
]
Slots = Annotated[int, typer.Option(help="K of a pinv or gaussian bank.", min=1)]
ALL_ADDRESSINGS = ",".join(ADDRESSINGS)
SLOTS = DEFAULT_SLOTS
SHARES = (-2, 103)
"""Of a figure's axis in percent: lines at 0 and 100 stand clear of its ends."""


def addressings(text: str) -> list[str]:
    """The addressings of an option, in its order.

    Raises:
        InvalidArgument: one is unknown, or named twice.
    """
    names = [name.strip() for name in text.split(",")]
    if not set(names) <= set(ADDRESSINGS) or len(set(names)) < len(names):
        raise InvalidArgument(f"--addressing takes some of {ALL_ADDRESSINGS}, each once")
    return names


def slots_of(addressing: str, slots: int) -> int:
    """K of a bank: none where it grows with its facts."""
    return 0 if addressing == "slots" else slots


def banks_note(slots: int) -> str:
    """What the addressings are, as a sentence."""
    return f"pinv and gaussian are memories of K = {slots} slots; slots grows with its facts."


def label(addressing: str, slots: int) -> str:
    """A bank's name in a figure."""
    return addressing if addressing == "slots" else f"{addressing}, K = {slots}"


def grid_table(
    rows: Sequence[Mapping[str, Any]],
    metrics: Sequence[str],
    heads: Sequence[str],
    corner: str,
    title: str = "",
    paper: Mapping[str, Mapping[str, str]] | None = None,
) -> Table:
    """A line for each row of a report, a column for each metric that some row has.

    Args:
        paper: further lines, of the paper's figures by metric (evaluation/paper.py).
    """
    known = [
        name
        for name in metrics
        if any(row["metrics"].get(name, {"value": None})["value"] is not None for row in rows)
    ]
    lines = [
        [
            head,
            *(
                cell(row["metrics"][name], digits_of(name)) if name in row["metrics"] else "-"
                for name in known
            ),
        ]
        for head, row in zip(heads, rows, strict=True)
    ]
    lines += [
        [head, *(figures.get(name, "") for name in known)]
        for head, figures in (paper or {}).items()
    ]
    return Table([corner, *known], lines, title)


def counts(option: str, text: str, least: int = 1) -> list[int]:
    """Whole numbers of an option, rising.

    Raises:
        InvalidArgument: as `_rising`.
    """
    return _rising(option, text, least, int)


def levels(option: str, text: str) -> list[float]:
    """Numbers from 0 on of an option, rising.

    Raises:
        InvalidArgument: as `_rising`.
    """
    return _rising(option, text, 0.0, float)


def _rising(option: str, text: str, least: Number, kind: Callable[[str], Number]) -> list[Number]:
    """Raises: InvalidArgument: not numbers with commas, one twice, below `least` or infinite."""
    try:
        numbers = [kind(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    rising = all(low < high for low, high in pairwise(numbers))
    if not numbers or not rising or not least <= numbers[0] or numbers[-1] == float("inf"):
        raise InvalidArgument(f"{option} takes rising numbers from {least} on, as 1,16,64")
    return numbers
