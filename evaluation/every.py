"""Every experiment, one after the other, and a table of how each ended."""

from __future__ import annotations

import inspect
import json
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from evaluation.plans import Experiment
from evaluation.report import Table
from larimar.errors import LarimarError

NAME = "all"
_messages = Console(stderr=True)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one experiment ended."""

    name: str
    ok: bool
    seconds: float
    report: str
    """Folder of its report; empty where there is none."""
    error: str = ""


def run_all(
    experiments: Sequence[Experiment],
    *,
    data_dir: Path,
    out: Path,
    quick: bool,
    options: Mapping[str, Any],
    quiet: bool = False,
) -> list[Outcome]:
    """Runs each experiment by its plan into a folder of its own below `out`.

    One that fails does not stop those after it.

    Args:
        quick: with the arguments that make each run a small one.
        options: arguments for those runs that have such parameters, such as model and seed.
    """
    outcomes = []
    for place, one in enumerate(experiments, start=1):
        if not quiet:
            _messages.print(f"{place}/{len(experiments)} {one.NAME}", markup=False)
        started = time.monotonic()
        try:
            report = one.run(**arguments_of(one, data_dir, out / one.NAME, quick, options))
            report.write()
            written, error = str(report.out), ""
        except LarimarError as caught:
            written, error = "", caught.message
        except Exception as caught:
            written, error = "", _unexpected(caught)
        seconds = round(time.monotonic() - started, 1)
        outcomes.append(Outcome(one.NAME, not error, seconds, written, error))
        if error and not quiet:
            _messages.print(f"{one.NAME} failed: {error}", markup=False, soft_wrap=True)
    _write_summary(out, outcomes, quick)
    return outcomes


def arguments_of(
    one: Experiment, data_dir: Path, out: Path, quick: bool, options: Mapping[str, Any]
) -> dict[str, Any]:
    """What an experiment's `run` is given.

    Raises:
        InvalidArgument: a file of its plan is not in the data folder.
    """
    parameters = inspect.signature(one.run).parameters
    given = {name: value for name, value in options.items() if name in parameters}
    return given | {"out": out} | one.PLAN.arguments(data_dir, quick)


def table(outcomes: Sequence[Outcome]) -> Table:
    """How each experiment ended, as texts."""
    rows = [
        [one.name, "ok" if one.ok else "FAILED", f"{one.seconds:.0f}", one.report or one.error]
        for one in outcomes
    ]
    return Table(["experiment", "ended", "seconds", "report or error"], rows)


def _write_summary(out: Path, outcomes: Sequence[Outcome], quick: bool) -> None:
    out.mkdir(parents=True, exist_ok=True)
    body = {"quick": quick, "experiments": [asdict(one) for one in outcomes]}
    (out / "summary.json").write_text(json.dumps(body, ensure_ascii=False, indent=2) + "\n")
    title = "# Every experiment, small\n\n" if quick else "# Every experiment\n\n"
    (out / "summary.md").write_text(title + table(outcomes).markdown())


def _unexpected(error: Exception) -> str:
    where = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"unexpected {type(error).__name__} at {Path(where.filename).name}:{where.lineno}: {error}"
    )
