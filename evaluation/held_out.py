"""Held-out text as questions: does a system with edits still read it as the plain decoder does?

A passage is the first words of a line, asked for, and the words that follow, scored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from evaluation.data_files import read_text
from evaluation.systems import Query, System, View
from larimar.errors import InvalidArgument

WORDS = 24
"""Of a passage's beginning, and of what follows."""

HeldOut = Annotated[
    Path | None,
    typer.Option("--text", help="Held-out text, lines of plain English.", dir_okay=False),
]
Passages = Annotated[int, typer.Option(help="Passages of the held-out text.", min=1)]


@dataclass(frozen=True)
class HeldOutText:
    """Passages of a file."""

    file: str
    sha256: str
    queries: tuple[Query, ...]

    def to_json(self) -> dict[str, str | int]:
        """What a report says of it."""
        return {"file": self.file, "sha256": self.sha256, "passages": len(self.queries)}


@dataclass(frozen=True)
class Reading:
    """How one passage was read."""

    logprobs: tuple[float, ...]
    in_scope: bool


def read_held_out(path: Path, passages: int) -> HeldOutText:
    """Passages spread evenly over the lines that are long enough.

    Raises:
        InvalidArgument: the file cannot be read, or has no such line.
    """
    text, sha256 = read_text(path)
    lines = [words for line in text.split("\n") if len(words := line.split()) >= 2 * WORDS]
    if not lines:
        raise InvalidArgument(f"{path}:1: no line of {2 * WORDS} words or more")
    count = min(passages, len(lines))
    chosen = [lines[place * len(lines) // count] for place in range(count)]
    queries = tuple(
        Query(" ".join(words[:WORDS]), (" " + " ".join(words[WORDS : 2 * WORDS]),))
        for words in chosen
    )
    return HeldOutText(path.name, sha256, queries)


def readings(system: System, text: HeldOutText, view: View) -> list[Reading]:
    """How a system reads each passage now."""
    seen = system.decode(system.read(text.queries, view))
    return [Reading(tuple(one.candidates[0].token_logprobs), one.in_scope) for one in seen]


def perplexity(read: Sequence[Reading]) -> float | None:
    """exp(NLL / tokens) over all passages; None without any."""
    tokens = sum(len(one.logprobs) for one in read)
    return (
        math.exp(-math.fsum(p for one in read for p in one.logprobs) / tokens) if tokens else None
    )
