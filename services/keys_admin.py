"""The operator's way to API keys: directly on the store, so that the first needs no other.

`python -m services.keys_admin`: one JSON object on standard input (action, data_dir, redis_url
and what the action needs), one on standard output; an error as one line of JSON on standard
error, with exit status 1.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from larimar.errors import InvalidArgument, LarimarError, NotFound, Unavailable
from services.audit import OK, OPERATOR
from services.build import audit_trail
from services.keys import ApiKey, new_key
from services.redis_calls import RedisCalls
from services.redis_keys import RedisKeys
from services.run import die_with_parent
from services.settings import default_settings
from services.store import EmbeddedStore, socket_path_of


@contextlib.contextmanager
def store_url(job: dict[str, Any]) -> Iterator[str]:
    """Where the keys are: the store that is named, the one that serves, or one for the moment."""
    settings = default_settings()
    url = job.get("redis_url") or settings.redis_url
    if url:
        yield url
        return
    data_dir = Path(job["data_dir"]).resolve()
    if job["action"] != "create" and not data_dir.is_dir():
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


def shown(key: ApiKey) -> dict[str, Any]:
    """What may be shown of a key."""
    return {
        "id": key.key_id,
        "tenant": key.tenant,
        "scopes": list(key.scopes),
        "name": key.name,
        "created_ms": key.created_ms,
        "revoked_ms": key.revoked_ms,
    }


async def perform(job: dict[str, Any], url: str) -> dict[str, Any]:
    """Does what a job asks, and writes it into the audit log. Raises: LarimarError."""
    done = await _performed(job, url)
    if job["action"] != "list":
        settings = dataclasses.replace(default_settings(), data_dir=job["data_dir"])
        entry = {"action": f"{job['action']} key", "key_id": done["id"], "result": OK}
        audit_trail(settings).add(done["tenant"], OPERATOR, [entry], durable=True)
    return done


async def _performed(job: dict[str, Any], url: str) -> dict[str, Any]:
    keys = RedisKeys(url)
    try:
        if job["action"] == "create":
            key, secret = new_key(job["tenant"], job["scopes"], job["name"])
            await keys.add(key)
            return {**shown(key), "key": secret}
        if job["action"] == "list":
            return {"keys": [shown(key) for key in await keys.all()]}
        if job["action"] == "revoke":
            return shown(await keys.revoke(job["id"]))
        raise InvalidArgument(f"unknown action {job['action']!r}")
    finally:
        await keys.close()


def main() -> int:
    """Reads the job, does it, prints what came of it."""
    die_with_parent()
    job = json.loads(sys.stdin.readline())
    try:
        with store_url(job) as url:
            print(json.dumps(asyncio.run(perform(job, url))))
    except LarimarError as error:
        print(json.dumps({"code": error.code, "reason": error.reason, "message": error.message}),
              file=sys.stderr)  # fmt: skip
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
