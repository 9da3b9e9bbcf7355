"""Long texts for evaluations of long contexts: documents with questions, and dated events."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from evaluation.data_files import DataFile, Fields, first_records, read_objects, read_text

_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
_REVIEW_HEADING = re.compile(r"\d{4} in review")
_REVIEW_LINE = re.compile(rf"({'|'.join(_MONTHS)}) (\d{{1,2}}), (\d{{4}}) - (.+)")


@dataclass(frozen=True, slots=True)
class Question:
    """A question that a document answers."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Document:
    """A long text and questions about it."""

    document_id: str
    text: str
    questions: tuple[Question, ...]


@dataclass(frozen=True, slots=True)
class DatedEvent:
    """Something that happened on a day."""

    year: int
    month: int
    day: int
    text: str


def read_documents(path: str | Path, limit: int | None = None) -> DataFile[Document]:
    """The first `limit` documents of a file.

    Each is ``{"document": ..., "questions": [{"question": ..., "answer": ...}]}``, in a JSON list
    or one a line. ``id`` names a document; without one its place in the
    file, from 0, is taken.

    Raises:
        InvalidArgument: the file cannot be read, or is of another form; the message gives
            file and line.
    """
    seen: set[str] = set()

    def document(fields: Fields) -> Document:
        found = _document(fields)
        if found.document_id in seen:
            raise fields.error(f"a document before has the id {found.document_id} too")
        seen.add(found.document_id)
        return found

    return read_objects(Path(path), "documents", document, limit)


def read_events(path: str | Path, limit: int | None = None) -> DataFile[DatedEvent]:
    """The first `limit` dated events of a file.

    Either JSON objects with ``year``, ``month``, ``day`` and ``text``, or plain lines
    "January 3, 2016 - text" with headings "2016 in review" between them. Events whose text
    still holds remains of link markup are left out and counted.

    Raises:
        InvalidArgument: the file cannot be read, is of another form, or a day does not exist; the
            message gives file and line.
    """
    path = Path(path)
    text, sha256 = read_text(path, limit)
    if text.lstrip("\ufeff \t\r\n")[:1] in ("{", "["):
        return read_objects(path, "dated_events", _dated_event, limit)
    made = (
        _event_of_line(f"{path}:{number}", line.strip())
        for number, line in enumerate(text.lstrip("\ufeff").split("\n"), start=1)
        if line.strip() and not _REVIEW_HEADING.fullmatch(line.strip())
    )
    records, skipped = first_records(path, made, limit)
    return DataFile(path.name, "year_reviews", sha256, records, skipped)


def _document(fields: Fields) -> Document:
    return Document(
        document_id=fields.record_id("id") if "id" in fields else str(fields.place),
        text=fields.text("document"),
        questions=tuple(
            Question(one.text("question"), one.text("answer")) for one in fields.inners("questions")
        ),
    )


def _dated_event(fields: Fields) -> DatedEvent | None:
    year, month, day = (fields.whole(name) for name in ("year", "month", "day"))
    return _event(fields, year, month, day, fields.text("text"))


def _event_of_line(where: str, line: str) -> DatedEvent | None:
    fields = Fields(where, "year_reviews", {})
    found = _REVIEW_LINE.fullmatch(line)
    if not found:
        raise fields.error('expected "January 3, 2016 - text" or "2016 in review"')
    month, day, year, text = found.groups()
    return _event(fields, int(year), _MONTHS.index(month) + 1, int(day), text.strip())


def _event(fields: Fields, year: int, month: int, day: int, text: str) -> DatedEvent | None:
    try:
        date(year, month, day)
    except ValueError as error:
        raise fields.error(f"{year}-{month}-{day} is no day of a calendar ({error})") from error
    return None if "](" in text else DatedEvent(year, month, day, text)
