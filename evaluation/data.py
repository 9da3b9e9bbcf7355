"""Evaluation records: CounterFact and its relatives, read into one form.

The layout of a file is told from its content, not its name: a JSON list or one JSON object a
line, of records in one of these. Documents and dated events are read by evaluation/documents.py.

- ``counterfact``: the original layout (Meng et al. 2022, arXiv 2202.05262).
- ``easyedit``: EasyEdit's. Its ``rephrase_prompt`` is a prompt for free generation more
  often than a paraphrase, so it becomes a paraphrase "as given" and never a clean one.
- ``multi_rephrase``: CounterFact's facts with many rephrasings each, and no neighbours.
- ``zsre``: ZsRE in MEND's layout (arXiv 2110.11309): a question, one rephrasing of it, the edit's
  target, and one question of another data set whose answer must not change. Its records have no
  ids; their place in the file, from 0, is taken. A record whose target is empty edits nothing:
  it is left out and counted.
- ``zsre_multi_rephrase``: the same with many rephrasings each, and ids.
- ``plain``: ``prompt`` and ``answer``; where there are any, ``id``, ``subject``, ``target_true``
  and ``rephrasings``. A record without an id takes its place in the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evaluation.data_files import (
    DataFile,
    Fields,
    first_records,
    objects,
    read_text,
)
from larimar.errors import InvalidArgument

_SUBJECT_PLACE = "{}"
_SENTENCE_START = re.compile(r"(?<=[.!?])\s+|\s*\n\s*")
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class EditRecord:
    """One edit and the prompts that show what it did."""

    case_id: str
    subject: str
    """Empty where a plain file names none."""
    prompt: str
    """The edit prompt, subject filled in."""
    target_new: str
    target_true: str
    """Empty where a plain file names none; see `with_true_targets`."""
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


EditData = DataFile[EditRecord]


def read_records(path: str | Path, limit: int | None = None) -> EditData:
    """The first `limit` records of a file (all, by default), in file order.

    Raises:
        InvalidArgument: the file cannot be read or is of no known form; the message
            gives file and line.
    """
    return _read_records(Path(path), limit, rephrased=False)


def read_rephrasings(path: str | Path, limit: int | None = None) -> EditData:
    """The first `limit` records of a file whose every fact has rephrasings (`paraphrases`).

    Raises:
        InvalidArgument: as `read_records`, or a record has none.
    """
    return _read_records(Path(path), limit, rephrased=True)


def with_true_targets(data: EditData) -> EditData:
    """The same data, where every record has a true target to compare with.

    Raises:
        InvalidArgument: a plain record has none.
    """
    without = [record.case_id for record in data.records if not record.target_true]
    if without:
        raise InvalidArgument(
            f"{data.file}: record {without[0]} has no 'target_true', which S and M compare the "
            "new answer with; add it"
        )
    return data


def _read_records(path: Path, limit: int | None, rephrased: bool) -> EditData:
    text, sha256 = read_text(path, limit)
    form, lines = "", dict[str, int]()

    def made(place: int, line: int, value: Any) -> EditRecord | None:
        nonlocal form
        where = f"{path}:{line}"
        form = form or _form(where, value)
        fields = Fields(where, form, value, place)
        record = _LAYOUTS[form](fields)
        if record is None:
            return None
        if rephrased and not record.paraphrases:
            raise fields.error(
                f"a record of form {form} has no rephrasings; give a file with many of them"
            )
        if record.case_id in lines:
            raise fields.error(f"case_id {record.case_id} is also on line {lines[record.case_id]}")
        lines[record.case_id] = line
        return record

    values = enumerate(objects(path, text))
    records, skipped = first_records(
        path, (made(place, line, value) for place, (line, value) in values), limit
    )
    return DataFile(path.name, form, sha256, records, skipped)


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


def _counterfact(fields: Fields) -> EditRecord:
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
        case_id=fields.record_id("case_id"),
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


def _easyedit(fields: Fields) -> EditRecord:
    return EditRecord(
        case_id=fields.record_id("case_id"),
        subject=fields.text("subject"),
        prompt=fields.text("prompt"),
        target_new=fields.text("target_new"),
        target_true=fields.text("ground_truth"),
        paraphrases_raw=(fields.text("rephrase_prompt"),),
        neighbors=(fields.text("locality_prompt"),),
        neighbor_answers=(fields.text("locality_ground_truth"),),
    )


def _multi_rephrase(fields: Fields) -> EditRecord:
    return EditRecord(
        case_id=fields.record_id("case_id"),
        subject=fields.text("subject"),
        prompt=fields.text("prompt"),
        target_new=fields.text("target_new"),
        target_true=fields.text("target_true"),
        relation=fields.text("relation_id") if "relation_id" in fields else "",
        paraphrases=fields.texts("rephrases"),
    )


def _zsre(fields: Fields) -> EditRecord | None:
    if fields.is_empty("alt"):
        return None
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


def _zsre_multi_rephrase(fields: Fields) -> EditRecord | None:
    if fields.is_empty("alt"):
        return None
    return EditRecord(
        case_id=fields.record_id("id"),
        subject=fields.text("subject"),
        prompt=fields.text("question"),
        target_new=fields.text("alt"),
        target_true=fields.text("answer"),
        paraphrases=fields.texts("rephrases"),
        neighbors=(fields.text("loc"),),
        neighbor_answers=(fields.text("loc_ans"),),
    )


def _plain(fields: Fields) -> EditRecord:
    return EditRecord(
        case_id=fields.record_id("id") if "id" in fields else str(fields.place),
        subject=fields.text_or("subject", ""),
        prompt=fields.text("prompt"),
        target_new=fields.text("answer"),
        target_true=fields.text_or("target_true", ""),
        paraphrases=fields.texts("rephrasings") if "rephrasings" in fields else (),
    )


# The first form whose keys a file's first record has is the file's.
_TELLING_KEYS = {
    "counterfact": ("requested_rewrite",),
    "easyedit": ("rephrase_prompt",),
    "zsre_multi_rephrase": ("question", "rephrases"),
    "multi_rephrase": ("rephrases",),
    "zsre": ("loc_ans",),
    "plain": ("prompt", "answer"),
}
_LAYOUTS: dict[str, Callable[[Fields], EditRecord | None]] = {
    "counterfact": _counterfact,
    "easyedit": _easyedit,
    "zsre_multi_rephrase": _zsre_multi_rephrase,
    "multi_rephrase": _multi_rephrase,
    "zsre": _zsre,
    "plain": _plain,
}


def _form(where: str, value: Any) -> str:
    keys = value.keys() if isinstance(value, dict) else ()
    for form, telling in _TELLING_KEYS.items():
        if all(key in keys for key in telling):
            return form
    known = "; ".join(f"{form} ({', '.join(names)})" for form, names in _TELLING_KEYS.items())
    raise InvalidArgument(f"{where}: a record of no known form; known by these keys are {known}")
