"""The door for editors that others wrote: they edit a Hugging Face checkpoint, we score it.

An editor is given the records of an edit and hands back a causal language model of
`transformers` in which they hold. `larimar export-decoder` writes the shipped decoder as the
checkpoint that it starts from.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from evaluation.baselines.plain import decoder_of, seen_by
from evaluation.data import EditRecord
from evaluation.edits import fact_of
from evaluation.systems import NewFact, Query, Seen
from larimar.backbones import decoder_tokenizer_of
from larimar.decoder import Decoder
from larimar.errors import FailedPrecondition, InvalidArgument, NotFound


class Editor(Protocol):
    """A way to edit a causal language model of Hugging Face."""

    def edit(self, records: Sequence[EditRecord]) -> AbstractContextManager[Any]:
        """The edited model, until the context ends; then the edit is undone.

        `prompt`, `subject` and `target_new` of a record are what editors ask for; all records
        of one call hold at once. The model is one of `AutoModelForCausalLM`, with the tokenizer
        of the checkpoint.
        """
        ...


EditorFactory = Callable[[Path], Editor]
"""Makes an editor of the checkpoint in a folder."""


class Checkpoint:
    """The editor that does nothing: its checkpoint holds the edits already."""

    def __init__(self, folder: Path) -> None:
        self._lm = loaded(folder)

    @contextmanager
    def edit(self, records: Sequence[EditRecord]) -> Iterator[Any]:
        """The checkpoint as it is."""
        yield self._lm


class Edited:
    """An editor as a row of a table.

    Args:
        folder: of the checkpoint; its tokenizer splits prompts and candidates.
        records: what may be edited.
        like: whose limits of tokens apply.
    """

    def __init__(
        self, editor: Editor, folder: Path, records: Sequence[EditRecord], like: Decoder
    ) -> None:
        self._editor = editor
        self._tokenizer = decoder_tokenizer_of(str(folder))
        self._records = {fact_of(record).fact_id: record for record in records}
        self._like = like
        self._held = ExitStack()
        self._decoder: Decoder | None = None
        self._live: set[str] = set()

    def write(self, facts: Sequence[NewFact]) -> None:
        """Lets the editor edit.

        Raises:
            FailedPrecondition: an edit holds already: editors here make one edit at a time, of
                one or of many records.
        """
        if self._live:
            raise FailedPrecondition("an edit holds already: forget it before the next one")
        records = [self._records[fact.fact_id] for fact in facts]
        lm = self._held.enter_context(self._editor.edit(records))
        self._decoder = decoder_of(lm.eval(), self._tokenizer, self._like)
        self._live = {fact.fact_id for fact in facts}

    def forget(self, fact_ids: Sequence[str]) -> None:
        """Lets the editor undo its edit.

        Raises:
            InvalidArgument: only some of the facts of the edit are named.
        """
        if self._live - set(fact_ids):
            raise InvalidArgument("an edit is undone as a whole: name all of its facts")
        self._live, self._decoder = set(), None
        self._held.close()

    def read(self, queries: Sequence[Query]) -> list[Seen]:
        """What the edited model says; decoded at once, for the edit will be undone."""
        if self._decoder is None:
            raise FailedPrecondition("nothing is edited: write a fact first")
        return seen_by(self._decoder, queries)

    def decode(self, held: Sequence[Seen]) -> list[Seen]:
        """Nothing is left to do."""
        return list(held)


def loaded(folder: Path) -> Any:
    """The causal language model of a folder, in float32, from safetensors.

    Raises:
        NotFound: there is no such folder.
        InvalidArgument: it holds no causal language model.
    """
    from transformers import AutoModelForCausalLM

    if not folder.is_dir():
        raise NotFound(f"no folder {folder}: `larimar export-decoder` writes one")
    try:
        return AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, dtype="float32", use_safetensors=True
        ).eval()
    except (OSError, ValueError, KeyError) as error:
        raise InvalidArgument(f"{folder} holds no causal language model: {error}") from error


def editor_factory(named: str) -> EditorFactory:
    """The factory that MODULE:NAME names.

    Raises:
        InvalidArgument: there is no such module, or nothing of this name in it.
    """
    module, _, name = named.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InvalidArgument(
            f"no editor {named!r} ({error}): give MODULE:NAME of a module on PYTHONPATH"
        ) from error
