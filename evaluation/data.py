"""Evaluation records: CounterFact and its relatives, read into one form.

The form of a file is told from its content, not its name: a JSON list or one JSON
object a line, of records in one of four layouts.

- ``counterfact``: the original layout (Meng et al. 2022, arXiv 2202.05262).
- ``easyedit``: EasyEdit's. Its ``rephrase_prompt`` is a prompt for free generation more
  often than a paraphrase, so it becomes a paraphrase "as given" and never a clean one.
- ``multi_rephrase``: facts with many rephrasings each, and no neighbours.
- ``zsre``: ZsRE in MEND's layout (arXiv 2110.11309): a question, one rephrasing of it, the edit's
  target, and one question of another data set whose answer must not change. Its records have no
  ids; their place in the file, from 0, is taken. A record whose target is empty edits nothing:
  it is left out and counted.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from larimar.errors import InvalidArgument

_SUBJECT_PLACE = "{}"
_SENTENCE_START = re.compile(r"(?<=[.!?])\s+|\s*\n\s*")
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class EditRecord:
    """One edit and the prompts that show what it did."""

    case_id: str
    subject: str
    prompt: str
    """The edit prompt, subject filled in."""
    target_new: str
    target_true: str
    relation: str = ""
    """Relation id, where the file gives one."""
    paraphrases: tuple[str, ...] = ()
    """Rephrased edit prompts, without anything before them."""
    paraphrases_raw: tuple[str, ...] = ()
    """Rephrased edit prompts as the file gives them, unrelated sentence included."""
    generation_prompts: tuple[str, ...] = ()
    neighbors: tuple[str, ...] = ()
    """Prompts about other subjects, which the edit must leave alone."""
    neighbor_answers: tuple[str, ...] = ()
    """The true answer of each neighbour."""


@dataclass(frozen=True, slots=True)
class EditData:
    """The records of a file, and what file it was."""

    file: str
    form: str
    sha256: str
    records: tuple[EditRecord, ...]
    skipped: int = 0
    """Records left out, before the last one that was read."""


def read_records(path: str | Path, limit: int | None = None) -> EditData:
    """The first `limit` records of a file (all, by default), in file order.

    Raises:
        InvalidArgument: the file cannot be read or is of no known form; the message
            gives file and line.
    """
    path = Path(path)
    if limit is not None and limit < 1:
        raise InvalidArgument(f"limit is {limit}; it must be at least 1")
    try:
        content = path.read_bytes()
        text = content.decode("utf-8")
    except OSError as error:
        raise InvalidArgument(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InvalidArgument(f"{path}:{line}: not UTF-8 text") from error
    form, records, lines, skipped = "", [], {}, 0
    for place, (line, fields) in enumerate(_objects(path, text)):
        where = f"{path}:{line}"
        form = form or _form(where, fields)
        if form == "zsre" and isinstance(fields, dict) and fields.get("alt") == "":
            skipped += 1
            continue
        record = _LAYOUTS[form](_Fields(where, form, fields, place))
        if record.case_id in lines:
            raise InvalidArgument(
                f"{where}: case_id {record.case_id} is also on line {lines[record.case_id]}"
            )
        lines[record.case_id] = line
        records.append(record)
        if len(records) == limit:
            break
    if not records:
        raise InvalidArgument(f"{path}:1: no records; expected a JSON list or JSON lines")
    sha256 = hashlib.sha256(content).hexdigest()
    return EditData(path.name, form, sha256, tuple(records), skipped)


def strip_distractor(paraphrase: str, subject: str) -> str:
    """A published paraphrase without the unrelated sentence before it.

    The subject's sentence starts at the last sentence end or line break before the
    subject; a distractor that ends in neither stays.
    """
    at = paraphrase.find(subject)
    if at < 0:
        return paraphrase.strip()
    starts = [match.end() for match in _SENTENCE_START.finditer(paraphrase, 0, at)]
    return paraphrase[max(starts, default=0) :].strip()


def with_fewer_probes(records: Sequence[EditRecord], most: int) -> list[EditRecord]:
    """The records with the first `most` paraphrases, of each kind, and neighbours only."""
    return [
        replace(
            record,
            paraphrases=record.paraphrases[:most],
            paraphrases_raw=record.paraphrases_raw[:most],
            neighbors=record.neighbors[:most],
            neighbor_answers=record.neighbor_answers[:most],
        )
        for record in records
    ]


def without_edited_neighbors(records: Sequence[EditRecord]) -> list[EditRecord]:
    """The records without the neighbours whose subject is edited by any of the records.

    Where many edits hold at once, such a prompt is rightly answered by another edit,
    and says nothing of what this one left alone. Cost: one look-up per run of words.
    """
    subjects = {tuple(_WORD.findall(record.subject.casefold())) for record in records}
    subjects.discard(())
    longest = max(map(len, subjects), default=0)

    def is_edited(prompt: str) -> bool:
        words = _WORD.findall(prompt.casefold())
        return any(
            tuple(words[start : start + size]) in subjects
            for size in range(1, longest + 1)
            for start in range(len(words) - size + 1)
        )

    kept = []
    for record in records:
        pairs = zip(record.neighbors, record.neighbor_answers, strict=True)
        pairs = [pair for pair in pairs if not is_edited(pair[0])]
        kept.append(
            replace(
                record,
                neighbors=tuple(prompt for prompt, _ in pairs),
                neighbor_answers=tuple(answer for _, answer in pairs),
            )
        )
    return kept


def _objects(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """Line number and value of each element of a JSON list, or of each line."""
    if text.lstrip("\ufeff \t\r\n").startswith("["):
        yield from _list_elements(path, text)
        return
    for number, line in enumerate(text.lstrip("\ufeff").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except json.JSONDecodeError as error:
            raise InvalidArgument(f"{path}:{number}: not JSON ({error.msg})") from error


def _list_elements(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    decoder = json.JSONDecoder()
    at, line, counted = text.index("[") + 1, 1, 0
    separators, expected = "", "a record or ]"
    while True:
        while at < len(text) and text[at] in " \t\r\n" + separators:
            if text[at] == ",":
                separators, expected = "", "a record"
            at += 1
        line, counted = line + text.count("\n", counted, at), at
        if text[at : at + 1] == "]" and expected != "a record":
            return
        if separators or at == len(text):
            raise InvalidArgument(f"{path}:{line}: the JSON list breaks off; expected {expected}")
        try:
            value, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise InvalidArgument(f"{path}:{error.lineno}: not JSON ({error.msg})") from error
        yield line, value
        separators, expected = ",", ", or ]"


def _form(where: str, fields: Any) -> str:
    keys = fields.keys() if isinstance(fields, dict) else ()
    for form, key in _TELLING_KEYS.items():
        if key in keys:
            return form
    known = ", ".join(f"{form} (has {key!r})" for form, key in _TELLING_KEYS.items())
    raise InvalidArgument(f"{where}: a record of no known form; known are {known}")


class _Fields:
    """One record's JSON object: checked look-ups whose errors name file and line."""

    def __init__(self, where: str, form: str, fields: Any, place: int = 0) -> None:
        if not isinstance(fields, dict):
            raise InvalidArgument(f"{where}: expected a JSON object of form {form}")
        self._where, self._form, self._fields = where, form, fields
        self.place = place
        """Of the record in its file, from 0."""

    def __contains__(self, name: str) -> bool:
        return name in self._fields

    def error(self, message: str) -> InvalidArgument:
        """An error at this record's line."""
        return InvalidArgument(f"{self._where}: {message}")

    def inner(self, name: str) -> _Fields:
        """An object inside this one."""
        return _Fields(self._where, self._form, self._get(name))

    def text(self, name: str) -> str:
        """A text that is not empty, without outer space."""
        value = self._get(name)
        if not isinstance(value, str) or not value.strip():
            raise self.error(f"{name!r} must be a text that is not empty")
        return value.strip()

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts, none of them empty."""
        value = self._get(name)
        if not isinstance(value, list) or not all(isinstance(t, str) and t.strip() for t in value):
            raise self.error(f"{name!r} must be a list of texts, none of them empty")
        return tuple(text.strip() for text in value)

    def case_id(self) -> str:
        """The record's own id, as text."""
        value = self._get("case_id")
        if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
            raise self.error("'case_id' must be a number or a text")
        return str(value)

    def _get(self, name: str) -> Any:
        if name not in self._fields:
            raise self.error(f"no {name!r} in a record of form {self._form}")
        return self._fields[name]


def _counterfact(fields: _Fields) -> EditRecord:
    rewrite = fields.inner("requested_rewrite")
    template, subject = rewrite.text("prompt"), rewrite.text("subject")
    if template.count(_SUBJECT_PLACE) != 1:
        raise fields.error(
            f"the prompt {template!r} must have one {_SUBJECT_PLACE} for its subject"
        )
    raw = fields.texts("paraphrase_prompts")
    clean_given = "paraphrase_prompts_clean" in fields
    neighbors = fields.texts("neighborhood_prompts")
    true = rewrite.inner("target_true").text("str")
    return EditRecord(
        case_id=fields.case_id(),
        subject=subject,
        prompt=template.replace(_SUBJECT_PLACE, subject),
        target_new=rewrite.inner("target_new").text("str"),
        target_true=true,
        relation=rewrite.text("relation_id") if "relation_id" in rewrite else "",
        paraphrases=fields.texts("paraphrase_prompts_clean")
        if clean_given
        else tuple(strip_distractor(text, subject) for text in raw),
        paraphrases_raw=raw,
        generation_prompts=fields.texts("generation_prompts"),
        neighbors=neighbors,
        # CounterFact's neighbours are chosen to share the true answer.
        neighbor_answers=(true,) * len(neighbors),
    )


def _easyedit(fields: _Fields) -> EditRecord:
    return EditRecord(
        case_id=fields.case_id(),
        subject=fields.text("subject"),
        prompt=fields.text("prompt"),
        target_new=fields.text("target_new"),
        target_true=fields.text("ground_truth"),
        paraphrases_raw=(fields.text("rephrase_prompt"),),
        neighbors=(fields.text("locality_prompt"),),
        neighbor_answers=(fields.text("locality_ground_truth"),),
    )


def _multi_rephrase(fields: _Fields) -> EditRecord:
    return EditRecord(
        case_id=fields.case_id(),
        subject=fields.text("subject"),
        prompt=fields.text("prompt"),
        target_new=fields.text("target_new"),
        target_true=fields.text("target_true"),
        relation=fields.text("relation_id") if "relation_id" in fields else "",
        paraphrases=fields.texts("rephrases"),
    )


def _zsre(fields: _Fields) -> EditRecord:
    answers = fields.texts("answers")
    if not answers:
        raise fields.error("'answers' is empty: the first one is the true target")
    return EditRecord(
        case_id=str(fields.place),
        subject=fields.text("subject"),
        prompt=fields.text("src"),
        target_new=fields.text("alt"),
        target_true=answers[0],
        paraphrases=(fields.text("rephrase"),),
        neighbors=(fields.text("loc"),),
        neighbor_answers=(fields.text("loc_ans"),),
    )


_TELLING_KEYS = {
    "counterfact": "requested_rewrite",
    "easyedit": "rephrase_prompt",
    "multi_rephrase": "rephrases",
    "zsre": "loc_ans",
}
_LAYOUTS: dict[str, Callable[[_Fields], EditRecord]] = {
    "counterfact": _counterfact,
    "easyedit": _easyedit,
    "multi_rephrase": _multi_rephrase,
    "zsre": _zsre,
}
