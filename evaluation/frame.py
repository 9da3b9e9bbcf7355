"""What experiments do alike: shared options, measurements kept on the way, the bar, the report.

An experiment is a function of a `Frame` and of options of its own. `experiment` makes of it the
function of options that evaluation/plans.py describes.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol, TypeVar

from evaluation.edits import MAX_TOKENS
from evaluation.metrics import SCORING
from evaluation.options import (
    DEFAULT_MODEL,
    IN_PROCESS,
    Advance,
    AsJson,
    Data,
    Detector,
    Fresh,
    Limit,
    MaxTokens,
    ModelPath,
    Out,
    Seed,
    Target,
    progress_bar,
)
from evaluation.records import Records
from evaluation.report import Draw, Report, Table, provenance

Cell = TypeVar("Cell")


class Read(Protocol):
    """A file that was read."""

    @property
    def sha256(self) -> str: ...
    def to_json(self) -> dict[str, Any]:
        """What a report says of it."""
        ...


@dataclass(frozen=True)
class Frame:
    """What an experiment was asked by the options that experiments share."""

    name: str
    """Of the experiment."""
    data: Data
    limit: Limit = None
    out: Out = None
    model: ModelPath = DEFAULT_MODEL
    target: Target = IN_PROCESS
    detector: Detector = ""
    seed: Seed = 0
    max_tokens: MaxTokens = MAX_TOKENS
    fresh: Fresh = False
    as_json: AsJson = False

    @property
    def where(self) -> str:
        """What a report calls the target."""
        return IN_PROCESS if self.target == IN_PROCESS else "pipeline"

    def started(
        self,
        data: Read,
        model_digest: str,
        settings: Mapping[str, Any],
        *,
        name: str = "",
        folder: str = "",
        **only_here: Any,
    ) -> Run:
        """The run, with what its folder holds of it already.

        Args:
            settings: what the report says of it, and tells it from other runs.
            name: of the report, where it is not the experiment's.
            folder: below out/, where it is not called as the report.
            only_here: what tells it from other runs and stands elsewhere in the report.

        Raises:
            FailedPrecondition: the folder holds records of another run.
        """
        name = name or self.name
        out = self.out or Path("out") / (folder or name)
        run_of = {
            "name": name,
            "data_sha256": data.sha256,
            "model_digest": model_digest,
            "scoring": SCORING,
            "target": self.where,
        }
        kept = Records(out, {**run_of, **only_here, **settings}, self.fresh)
        return Run(self, name, out, data.to_json(), model_digest, settings, kept)

    def bar(self, title: str, total: int, done: int = 0) -> AbstractContextManager[Advance]:
        """A bar on stderr; hidden where the report goes to stdout as JSON."""
        return progress_bar(title, total, done, hidden=self.as_json)


@dataclass(frozen=True)
class Run:
    """A run under way."""

    frame: Frame
    name: str
    """Of the report."""
    out: Path
    data: Mapping[str, Any]
    """What the report says of the data."""
    model_digest: str
    settings: Mapping[str, Any]
    kept: Records

    def missing(self, title: str, cells: Mapping[str, Cell]) -> Iterator[tuple[str, Cell]]:
        """The cells whose measurements are not kept yet, by key; a bar says how many are done."""
        todo = {key: cell for key, cell in cells.items() if key not in self.kept}
        with self.frame.bar(title, len(cells), len(cells) - len(todo)) as advance:
            for key, cell in todo.items():
                yield key, cell
                advance(1)

    def report(
        self,
        title: str,
        rows: Sequence[Mapping[str, Any]],
        tables: Sequence[Table],
        notes: Sequence[str] = (),
        draw: Draw | None = None,
        more_figures: Mapping[str, Draw] | None = None,
        *,
        n: int,
        **more: Any,
    ) -> Report:
        """The report of rows, with all that repeats the run.

        Args:
            n: records that count.
            more: what else belongs into report.json.
        """
        body = provenance(
            self.name,
            data=self.data,
            model_digest=self.model_digest,
            n=n,
            seed=self.frame.seed,
            **{"target": self.frame.where, **self.settings},
        )
        body |= {"rows": rows, **more}
        return Report(self.name, title, self.out, body, tables, notes, draw, more_figures or {})


def experiment(
    name: str, *, without: Sequence[str] = (), **defaults: Any
) -> Callable[[Callable[..., Report]], Callable[..., Report]]:
    """Makes a function of options of one whose first parameter is a `Frame`.

    An option that both have is declared by the function, and given to both.

    Args:
        without: shared options that it does not take.
        defaults: of shared options, where they are not the usual ones.
    """

    def made(run: Callable[..., Report]) -> Callable[..., Report]:
        own = list(inspect.signature(run, eval_str=True).parameters.values())[1:]
        taken = {*without, *(one.name for one in own)}
        shared = [
            one.replace(default=defaults.get(one.name, one.default))
            for one in _SHARED
            if one.name not in taken
        ]
        signature = inspect.Signature([*shared, *own], return_annotation=Report)

        @functools.wraps(run)
        def of_options(**options: Any) -> Report:
            bound = signature.bind(**options)
            bound.apply_defaults()
            given = bound.arguments
            frame = Frame(name, **{key: one for key, one in given.items() if key in _FIELDS})
            return run(frame, **{one.name: given[one.name] for one in own})

        vars(of_options)["__signature__"] = signature
        of_options.__annotations__ = {
            one.name: one.annotation for one in signature.parameters.values()
        }
        return of_options

    return made


_FIELDS = {one.name for one in fields(Frame)}
_SHARED = list(inspect.signature(Frame, eval_str=True).parameters.values())[1:]
