"""How `all` runs an experiment: which files it reads, and what makes a small run of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from evaluation.report import Report
from larimar.errors import InvalidArgument


@dataclass(frozen=True)
class Instead:
    """A file that does where a plan's own is not there, such as one that `data fetch` brings."""

    file: str
    quick: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of `run` of a small run with it, over those of the plan."""
    full: Mapping[str, Any] = field(default_factory=dict)
    """The same of a whole run."""


@dataclass(frozen=True)
class Plan:
    """What a module says of itself, as its constant PLAN."""

    files: Mapping[str, str]
    """Parameter of `run` to the name of a file, which is looked for in the data folder."""
    quick: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of `run` of a small run: a minute at most on two cores."""
    full: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of a whole run that are not `run`'s own defaults."""
    instead: Mapping[str, Instead] = field(default_factory=dict)
    """By the same parameters, what is taken where a file is not there."""

    def arguments(self, folder: Path, quick: bool) -> dict[str, Any]:
        """What `run` is given, with the files of a data folder.

        Raises:
            InvalidArgument: a file is not there, and nothing in its stead.
        """
        found: dict[str, Any] = {}
        changed: dict[str, Any] = {}
        for name, file in self.files.items():
            other = self.instead.get(name)
            found[name] = find_file(folder, file, *([other.file] if other else []))
            if other and found[name].name == other.file:
                changed |= other.quick if quick else other.full
        return found | dict(self.quick if quick else self.full) | changed


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


def find_file(folder: Path, *names: str) -> Path:
    """The file of the first of these names that is in a folder or below it.

    Where there are several of one name, the first by path.

    Raises:
        InvalidArgument: there is none.
    """
    for name in names:
        found = sorted(path for path in folder.rglob(name) if path.is_file())
        if found:
            return found[0]
    raise InvalidArgument(
        f"no file {' or '.join(names)} in {folder} or below: give another --data-dir"
    )
