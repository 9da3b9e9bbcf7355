"""What an experiment has measured so far, one JSON line a record, so that it can go on later."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from larimar.errors import FailedPrecondition, InvalidArgument

FILE = "records.jsonl"
FORMAT = "larimar-records/1"


class Records(Mapping[str, Any]):
    """Measurements by record id, kept in OUT/records.jsonl.

    The first line says what was run. A line that a killed run left half written is dropped.

    Args:
        fresh: drops what another run left there.

    Raises:
        FailedPrecondition: the folder holds records of another run.
        InvalidArgument: its records.jsonl is of something else, or damaged; it is left alone.
    """

    def __init__(self, out: Path, run: Mapping[str, Any], fresh: bool = False) -> None:
        self.path = out / FILE
        self._run = json.loads(json.dumps({"format": FORMAT, **run}))
        self._found: dict[str, Any] = {}
        out.mkdir(parents=True, exist_ok=True)
        lines = self._lines() if self.path.is_file() else []
        if fresh and lines:
            self.path.unlink()
            lines = []
        if not lines:
            self._append(self._run)
            return
        if lines[0] != self._run:
            changed = sorted(
                key for key in {*lines[0], *self._run} if lines[0].get(key) != self._run.get(key)
            )
            raise FailedPrecondition(
                f"{self.path} holds records of another run ({', '.join(changed)} differ): give "
                "another --out, or --fresh to drop them",
                "OTHER_RUN",
            )
        self._found = {line["id"]: line["measured"] for line in lines[1:]}

    def __getitem__(self, record_id: str) -> Any:
        return self._found[record_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def add(self, record_id: str, measured: Any) -> None:
        """Keeps one record's measurements."""
        self._append({"id": record_id, "measured": measured})
        self._found[record_id] = measured

    def _append(self, line: Any) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def _lines(self) -> list[Any]:
        """What the file holds, less a last line that is not whole."""
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        lines = []
        for number, text in enumerate(whole.splitlines(), start=1):
            try:
                lines.append(json.loads(text))
            except ValueError as error:
                raise InvalidArgument(
                    f"{self.path}:{number}: not JSON ({error}); remove it or give another --out"
                ) from error
        if content and (
            not lines or not isinstance(lines[0], dict) or lines[0].get("format") != FORMAT
        ):
            raise InvalidArgument(
                f"{self.path} is no file of an evaluation's records: give another --out"
            )
        os.truncate(self.path, len(whole))
        return lines
