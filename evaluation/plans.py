"""How `all` runs an experiment: which files it reads, and what makes a small run of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from evaluation.report import Report
from larimar.errors import InvalidArgument


@dataclass(frozen=True)
class Plan:
    """What a module says of itself, as its constant PLAN."""

    files: Mapping[str, str]
    """Parameter of `run` to the name of a file, which is looked for in the data folder."""
    quick: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of `run` of a small run: a minute at most on two cores."""
    full: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of a whole run that are not `run`'s own defaults."""


class Experiment(Protocol):
    """A module with an experiment."""

    @property
    def NAME(self) -> str:
        """Of the command."""
        ...

    @property
    def METRICS(self) -> Sequence[str]:
        """Names, of evaluation/metric_names.py, that its rows may hold."""
        ...

    @property
    def PLAN(self) -> Plan:
        """How `all` runs it."""
        ...

    @property
    def run(self) -> Callable[..., Report]:
        """Runs it."""
        ...


def find_file(folder: Path, name: str) -> Path:
    """The file of this name in a folder or below it; the first by path where there are several.

    Raises:
        InvalidArgument: there is none.
    """
    found = sorted(path for path in folder.rglob(name) if path.is_file())
    if not found:
        raise InvalidArgument(f"no file {name} in {folder} or below: give another --data-dir")
    return found[0]
