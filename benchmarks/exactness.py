"""Random programs on banks against a plain twin in whole numbers: how many differences there are.

A program writes, replaces, forgets, erases, forks, merges, saves and damages checkpoints,
restarts followers, exports and imports (tests/programs.py). Digests and folded bytes are compared
at the newest and at past versions, as followed and as rebuilt from the log.

Also a command of its own: ``python -m benchmarks.exactness --programs 500 --seed 7``.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.measure import Aim, Report, prepare_process
from larimar.cli.console import emit, note

PROGRAMS, QUICK_PROGRAMS = 10_000, 60
STORE_SHARE = 50
"""One program in so many runs over the embedded store too; the others over the log in a process."""
TOLD_EVERY = 500


@dataclass
class ExactnessReport(Report):
    """A report with what was done, and every program that failed."""

    found: dict[str, Any] = field(default_factory=dict)

    def results(self) -> dict[str, Any]:
        """As it stands in the JSON file."""
        return super().results() | self.found


def run(quick: bool, use_ray: bool, told: Callable[[str], None]) -> ExactnessReport:
    """Programs in this process, a share of them over the embedded store; Ray has no part in it."""
    return checked(QUICK_PROGRAMS if quick else PROGRAMS, 0, told)


def checked(programs: int, seed: int, told: Callable[[str], None]) -> ExactnessReport:
    """Runs the programs of the seeds from `seed` on, and reports what differs."""
    from tests.programs import STEPS, in_the_store, in_this_process

    prepare_process()
    logging.getLogger("larimar").setLevel(logging.CRITICAL)  # damaged checkpoints are meant
    in_store = max(1, programs // STORE_SHARE)
    seeds, shared = range(seed, seed + programs), range(seed, seed + in_store)

    def tell(done: int) -> None:
        if done % TOLD_EVERY == 0:
            told(f"{done} programs done")

    started = time.monotonic()
    counts, failures = asyncio.run(in_this_process(seeds, tell))
    between = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="larimar-exactness-") as folder:
        store_counts, in_store_failures = asyncio.run(in_the_store(Path(folder) / "store", shared))
    ended = time.monotonic()
    for failure in (*failures, *in_store_failures):
        told(str(failure))
    total = Counter(counts) + store_counts
    report = ExactnessReport(
        {"programs": programs, "over the store": in_store, "seed": seed, "steps": STEPS}
    )
    report.measure("programs in this process", "s", [between - started])
    report.measure("programs over the store", "s", [ended - between])
    differences = len(failures) + len(in_store_failures)
    report.compare("programs that differ from the twin", differences, Aim(0, at_least=False))
    report.found = {
        "programs": total.pop("programs"),
        "operations": total.pop("operations"),
        "comparisons": total.pop("comparisons"),
        "differences": differences,
        "seed": seed,
        "outcomes": dict(sorted(total.items())),
        "failures": [str(failure) for failure in (*failures, *in_store_failures)],
    }
    return report


def main(
    programs: Annotated[int, typer.Option(min=1, help="How many programs.")] = PROGRAMS,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first; each has its own.")] = 0,
) -> None:
    """Runs random programs against the twin; JSON to standard output, status 1 on a difference."""
    report = checked(programs, seed, lambda line: note(f"exactness: {line}"))
    emit(report.results())
    raise typer.Exit(bool(report.found["differences"]))


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command(epilog="Example: python -m benchmarks.exactness --programs 500 --seed 7")(main)
    app(prog_name="python -m benchmarks.exactness")
