"""What the operator's programs share: a job on standard input, an answer on standard output.

One JSON object each, on a line; lines of progress, {"progress": text}, may come before the answer.
An error is one line of JSON on standard error, with exit status 1.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from larimar.errors import LarimarError, NotFound, Unavailable
from services.redis_calls import RedisCalls
from services.run import die_with_parent
from services.settings import default_settings
from services.store import EmbeddedStore, socket_path_of


def answer(perform: Callable[[dict[str, Any]], dict[str, Any]]) -> int:
    """Reads the job, does it, prints what came of it; the exit status."""
    die_with_parent()
    job = json.loads(sys.stdin.readline())
    try:
        print(json.dumps(perform(job)))
    except LarimarError as error:
        said = {"code": error.code, "reason": error.reason, "message": error.message}
        print(json.dumps(said), file=sys.stderr)
        return 1
    return 0


def progress(line: str) -> None:
    """Tells who waits what happens."""
    print(json.dumps({"progress": line}), flush=True)


@contextlib.contextmanager
def store_url(job: dict[str, Any], may_make: bool = False) -> Iterator[str]:
    """The store of a job: the one that is named, the one that serves, or one for the moment.

    Args:
        may_make: a data directory that is not there is made.

    Raises:
        NotFound: NO_DATA_DIR.
    """
    settings = default_settings()
    url = job.get("redis_url") or settings.redis_url
    if url:
        yield url
        return
    data_dir = Path(job["data_dir"]).resolve()
    if not may_make and not data_dir.is_dir():
        raise NotFound(f"no data directory {data_dir}: give --data-dir", "NO_DATA_DIR")
    url = f"unix://{quote(str(socket_path_of(data_dir)))}"
    if asyncio.run(_answers(url)):
        yield url
        return
    with EmbeddedStore(data_dir, settings.redis_server or None) as store:
        yield store.url


async def _answers(url: str) -> bool:
    calls = RedisCalls(url)
    try:
        await calls.call("PING")
    except Unavailable:
        return False
    finally:
        await calls.close()
    return True
