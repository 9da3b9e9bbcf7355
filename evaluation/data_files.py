"""Data files of evaluations: JSON lists and JSON lines, with errors that name file and line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from larimar.errors import InvalidArgument

Record = TypeVar("Record")


@dataclass(frozen=True, slots=True)
class DataFile(Generic[Record]):
    """The records of a file, and what file it was."""

    file: str
    """Its name, without folders."""
    form: str
    sha256: str
    records: tuple[Record, ...]
    skipped: int = 0
    """Records left out, among those that were looked at."""

    def to_json(self) -> dict[str, Any]:
        """What a report says of its data."""
        return {
            "file": self.file,
            "form": self.form,
            "sha256": self.sha256,
            "skipped": self.skipped,
        }


def read_text(path: Path, limit: int | None = None) -> tuple[str, str]:
    """A file's text and its SHA-256; checks the limit of records, which the caller applies.

    Raises:
        InvalidArgument: it cannot be read, is not UTF-8 (with the line), or the limit is below 1.
    """
    if limit is not None and limit < 1:
        raise InvalidArgument(f"limit is {limit}; it must be at least 1")
    try:
        content = path.read_bytes()
        return content.decode("utf-8"), hashlib.sha256(content).hexdigest()
    except OSError as error:
        raise InvalidArgument(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InvalidArgument(f"{path}:{line}: not UTF-8 text") from error


def read_objects(
    path: Path, form: str, make: Callable[[Fields], Record | None], limit: int | None
) -> DataFile[Record]:
    """The first `limit` records that `make` makes of a file's objects; None is left out.

    Raises:
        InvalidArgument: as `read_text` and `make`, or the file holds no records.
    """
    text, sha256 = read_text(path, limit)
    made = (
        make(Fields(f"{path}:{line}", form, value, place))
        for place, (line, value) in enumerate(objects(path, text))
    )
    records, skipped = first_records(path, made, limit)
    return DataFile(path.name, form, sha256, records, skipped)


def first_records(
    path: Path, made: Iterable[Record | None], limit: int | None
) -> tuple[tuple[Record, ...], int]:
    """The first `limit` records that are not None, and how many None were passed over.

    Raises:
        InvalidArgument: there is none.
    """
    records: list[Record] = []
    skipped = 0
    for record in made:
        if record is None:
            skipped += 1
            continue
        records.append(record)
        if len(records) == limit:
            break
    if not records:
        raise InvalidArgument(f"{path}:1: no records; expected a JSON list or JSON lines")
    return tuple(records), skipped


def objects(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """Line number and value of each element of a JSON list, or of each line.

    Raises:
        InvalidArgument: what is there is not JSON; the message gives file and line.
    """
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


class Fields:
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

    def inner(self, name: str) -> Fields:
        """An object inside this one."""
        return Fields(self._where, self._form, self._get(name))

    def inners(self, name: str) -> list[Fields]:
        """A list of objects inside this one, at least one.

        Their own errors give the line of the whole record.
        """
        value = self._get(name)
        if not isinstance(value, list) or not value:
            raise self.error(f"{name!r} must be a list of objects, at least one")
        return [Fields(self._where, self._form, one) for one in value]

    def is_empty(self, name: str) -> bool:
        """Whether the field is there and an empty text."""
        return self._fields.get(name) == ""

    def text(self, name: str) -> str:
        """A text that is not empty, without outer space."""
        value = self._get(name)
        if not isinstance(value, str) or not value.strip():
            raise self.error(f"{name!r} must be a text that is not empty")
        return value.strip()

    def text_or(self, name: str, default: str) -> str:
        """As `text`; the default where there is no such field."""
        return self.text(name) if name in self else default

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts, none of them empty."""
        value = self._get(name)
        if not isinstance(value, list) or not all(isinstance(t, str) and t.strip() for t in value):
            raise self.error(f"{name!r} must be a list of texts, none of them empty")
        return tuple(text.strip() for text in value)

    def whole(self, name: str) -> int:
        """A whole number."""
        value = self._get(name)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(f"{name!r} must be a whole number")
        return value

    def record_id(self, name: str) -> str:
        """The record's own id, a number or a text, as text."""
        value = self._get(name)
        if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
            raise self.error(f"{name!r} must be a number or a text")
        return str(value)

    def _get(self, name: str) -> Any:
        if name not in self._fields:
            raise self.error(f"no {name!r} in a record of form {self._form}")
        return self._fields[name]
