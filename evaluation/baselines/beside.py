"""Baselines as rows of a table of edits: the same facts, the same queries, the same run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Protocol

import typer

from evaluation.data import EditData, EditRecord, read_records
from evaluation.systems import InProcess, NewFact, Query, Seen, System, View
from larimar.errors import InvalidArgument

EDITOR, CHECKPOINT = "editor", "hf"
"""Names of the rows of an editor and of an edited checkpoint."""
NAMES = ("prompt", "rag", "ike", "ft", "ft_l")

Baselines = Annotated[
    str,
    typer.Option(
        help=f"Rows of other methods, with commas: {','.join(NAMES)}. NAME:N is of N facts at most."
    ),
]
Demonstrations = Annotated[
    Path | None,
    typer.Option(
        help="File of the records that ike shows. [default: those of --data that --limit leaves]",
        exists=True,
        dir_okay=False,
    ),
]
HfModel = Annotated[
    Path | None,
    typer.Option(
        help="Folder of a Hugging Face model: a row of it as it is, or edited by --editor.",
        exists=True,
        file_okay=False,
    ),
]
EditorName = Annotated[
    str, typer.Option(help="MODULE:NAME of what makes an editor of --hf-model's folder.")
]


class Baseline(Protocol):
    """Another way to make a decoder say what was written."""

    def write(self, facts: Sequence[NewFact]) -> None: ...
    def forget(self, fact_ids: Sequence[str]) -> None: ...
    def read(self, queries: Sequence[Query]) -> list[Any]: ...
    def decode(self, held: Sequence[Any]) -> list[Seen]: ...


@dataclass(frozen=True)
class Wanted:
    """Which baselines a run has, and what it takes to make them."""

    names: tuple[str, ...] = ()
    records: tuple[EditRecord, ...] = ()
    """That are edited."""
    demonstrations: tuple[EditRecord, ...] = ()
    demonstrations_sha256: str = ""
    hf_model: Path | None = None
    editor: str = ""
    limits: Mapping[str, int] = field(default_factory=dict)
    """Most facts of a baseline, by name; those that are not here take all."""

    def most(self, name: str, facts: int) -> int:
        """How many of so many facts a baseline takes."""
        return min(facts, self.limits.get(name, facts))

    def portions(self, records: int, batch: int | None) -> list[tuple[slice, list[str]]]:
        """The records in order, each part with the baselines that take it.

        A baseline takes whole batches.
        """
        ends = {name: self.end(name, records, batch) for name in self.names}
        borders = sorted({0, records, *ends.values()})
        return [
            (slice(low, high), [name for name in self.names if ends[name] >= high])
            for low, high in pairwise(borders)
        ]

    def end(self, name: str, records: int, batch: int | None) -> int:
        """The first record that a baseline does not take."""
        most = self.most(name, records)
        return most if most == records else most - most % (batch or 1)

    def limits_note(self, what: str) -> list[str]:
        """The limits as a sentence, where there are any."""
        told = ", ".join(f"{name} {most:,}" for name, most in self.limits.items())
        return [f"Baselines of fewer facts, for their time: {told}; {what}."] if told else []

    def settings(self) -> dict[str, Any]:
        """What tells this run from one with other baselines; nothing without any."""
        found: dict[str, Any] = {}
        if self.demonstrations:
            found["demonstrations_sha256"] = self.demonstrations_sha256
            # Which records of that file are left hangs on those that are evaluated.
            ids = json.dumps([record.case_id for record in self.demonstrations])
            found["demonstration_ids_sha256"] = hashlib.sha256(ids.encode()).hexdigest()
        if self.hf_model:
            found["hf_model"] = _folder_sha256(self.hf_model)
        if self.limits:
            found["baseline_limits"] = dict(self.limits)
        return found | ({"editor": self.editor} if self.editor else {})

    @property
    def dtype(self) -> Any:
        """Of the run's model: float32 where a row's own decoder is, so that its texts and the
        base's differ by the edit alone; None leaves it open."""
        import torch

        own = {"ft", "ft_l", EDITOR, CHECKPOINT}
        return torch.float32 if own & set(self.names) else None


NONE = Wanted()


def wanted(
    names: str,
    data: EditData,
    path: Path,
    *,
    demonstrations: Path | None = None,
    hf_model: Path | None = None,
    editor: str = "",
) -> Wanted:
    """The baselines that options ask for.

    Args:
        names: of NAMES, with commas between them, each with :N behind it for N facts at most.
        data: the records that are edited, of the file at `path`.

    Raises:
        InvalidArgument: an unknown name, a limit that is none, an editor without a checkpoint, or
            ike without any record to show.
    """
    limits = _limits(names)
    chosen = tuple(limits)
    unknown = sorted(set(chosen) - set(NAMES))
    if unknown:
        raise InvalidArgument(f"no baseline {unknown[0]!r}; there are {', '.join(NAMES)}")
    if editor and not hf_model:
        raise InvalidArgument("--editor edits a checkpoint: name its folder by --hf-model")
    shown: tuple[EditRecord, ...] = ()
    sha256 = ""
    if "ike" in chosen:
        from evaluation.baselines.in_context import others

        pool = read_records(demonstrations or path)
        shown, sha256 = tuple(others(pool.records, data.records)), pool.sha256
    if hf_model:
        chosen = (*chosen, EDITOR if editor else CHECKPOINT)
    bounds = {name: most for name, most in limits.items() if most is not None}
    return Wanted(chosen, data.records, shown, sha256, hf_model, editor, bounds)


def _limits(names: str) -> dict[str, int | None]:
    """Each name, with the most facts that are behind it."""
    found: dict[str, int | None] = {}
    for part in filter(None, (one.strip() for one in names.split(","))):
        name, colon, most = part.partition(":")
        if colon and not (most.isdecimal() and int(most)):
            raise InvalidArgument(f"--baselines {part}: behind the colon stands a number from 1 on")
        found[name] = int(most) if colon else None
    return found


class Beside:
    """A system with its baselines: what is written is written to all of them.

    A view that has a baseline's name is answered by it, every other one by the system.
    """

    def __init__(self, system: System, baselines: dict[str, Baseline]) -> None:
        self._system, self._baselines = system, baselines
        self.digest = system.digest
        self.setup = system.setup

    @property
    def baselines(self) -> Mapping[str, Baseline]:
        """By name."""
        return self._baselines

    def only(self, names: Sequence[str]) -> Beside:
        """The same with some of the baselines."""
        return Beside(self._system, {name: self._baselines[name] for name in names})

    def write(self, facts: Sequence[NewFact]) -> None:
        """Writes facts to the system and to every baseline."""
        self._system.write(facts)
        for baseline in self._baselines.values():
            baseline.write(facts)

    def forget(self, fact_ids: Sequence[str]) -> None:
        """Forgets facts everywhere."""
        self._system.forget(fact_ids)
        for baseline in self._baselines.values():
            baseline.forget(fact_ids)

    def read(self, queries: Sequence[Query], view: View) -> list[Any]:
        """What the row's method has for each query now."""
        baseline = self._baselines.get(view.name)
        found = self._system.read(queries, view) if baseline is None else baseline.read(queries)
        return [(view.name, one) for one in found]

    def decode(self, held: Sequence[Any]) -> list[Seen]:
        """Decodes what was read, each row's together."""
        places: dict[str, list[int]] = {}
        for place, (name, _) in enumerate(held):
            places.setdefault(name if name in self._baselines else "", []).append(place)
        seen: dict[int, Seen] = {}
        for name, some in places.items():
            decode = (self._baselines[name] if name else self._system).decode
            seen.update(zip(some, decode([held[place][1] for place in some]), strict=True))
        return [seen[place] for place in range(len(held))]

    def plain_difference(self, prompts: Sequence[str]) -> float | None:
        """The system's own."""
        return self._system.plain_difference(prompts)


def beside(system: System, chosen: Wanted) -> System:
    """The system with the baselines that are wanted; itself without any.

    Raises:
        InvalidArgument: the system is a pipeline, whose decoder is out of reach.
    """
    if not chosen.names:
        return system
    if not isinstance(system, InProcess):
        raise InvalidArgument("baselines need the decoder itself: use --target in-process")
    return Beside(system, {name: make(system, chosen) for name, make in _makers(chosen).items()})


def _makers(chosen: Wanted) -> dict[str, Callable[[InProcess, Wanted], Baseline]]:
    from evaluation.baselines import editors, fine_tuning, in_context
    from evaluation.baselines.plain import trainable_decoder

    trained: list[Any] = []

    def tuned(system: InProcess, norm: float | None) -> Baseline:
        if not trained:
            trained.append(trainable_decoder(system.model.folder))
        return fine_tuning.FineTuned(trained[0], norm)

    def edited(system: InProcess, wanted: Wanted) -> Baseline:
        assert wanted.hf_model is not None
        make = editors.editor_factory(wanted.editor) if wanted.editor else editors.Checkpoint
        editor = make(wanted.hf_model)
        return editors.Edited(editor, wanted.hf_model, wanted.records, system.model.decoder)

    known: dict[str, Callable[[InProcess, Wanted], Baseline]] = {
        "prompt": lambda system, _: in_context.Prompted(system),
        "rag": lambda system, _: in_context.Retrieved(system),
        "ike": lambda system, wanted: in_context.Demonstrated(system, wanted.demonstrations),
        "ft": lambda system, _: tuned(system, None),
        "ft_l": lambda system, _: tuned(system, fine_tuning.NORM),
        EDITOR: edited,
        CHECKPOINT: edited,
    }
    return {name: known[name] for name in chosen.names}


def _folder_sha256(folder: Path) -> str:
    """A digest of a checkpoint's files, by name and content."""
    from larimar.manifest import file_sha256

    found = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file():
            found.update(f"{path.name} {file_sha256(path)}\n".encode())
    return found.hexdigest()
