"""The operator's way to the audit log: its lines, chosen and in order, from the files themselves.

`python -m services.audit_admin`: one JSON object on standard input (data_dir, and what lines to
choose), their JSON on standard output, a line each; an error as one line of JSON on standard error,
with exit status 1.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from larimar.errors import LarimarError, NotFound
from services.audit import read
from services.build import audit_folder
from services.run import die_with_parent
from services.settings import default_settings


def chosen(entries: Iterable[dict[str, Any]], job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Those lines that a job asks for, in their order."""
    for entry in entries:
        facts = {entry.get("fact_id"), *entry.get("fact_ids", ())}
        if (
            entry["time"] >= job.get("since", "")
            and job.get("tenant") in (None, entry.get("tenant"))
            and job.get("key") in (None, entry.get("key"))
            and job.get("action") in (None, entry.get("action"))
            and job.get("bank") in (None, entry.get("bank"))
            and (job.get("fact_id") is None or job["fact_id"] in facts)
        ):
            yield entry


def perform(job: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """The lines of a job, at most its `limit` newest. Raises: NotFound."""
    folder = audit_folder(dataclasses.replace(default_settings(), data_dir=job["data_dir"]))
    if not folder.is_dir():
        raise NotFound(
            f"no audit log at {folder}: give --data-dir, or set audit_dir in the settings",
            "NO_DATA_DIR",
        )
    found = chosen(read(folder), job)
    return deque(found, job["limit"]) if job["limit"] else found


def main() -> int:
    """Reads the job, prints its lines."""
    die_with_parent()
    job = json.loads(sys.stdin.readline())
    try:
        for entry in perform(job):
            print(json.dumps(entry))
    except LarimarError as error:
        print(json.dumps({"code": error.code, "reason": error.reason, "message": error.message}),
              file=sys.stderr)  # fmt: skip
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
