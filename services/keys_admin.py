"""The operator's way to API keys: directly on the store, so that the first needs no other.

`python -m services.keys_admin`: a job as of services/admin.py (action, data_dir, redis_url and what
the action needs).
"""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from typing import Any

from larimar.errors import InvalidArgument
from services.admin import answer, store_url
from services.audit import OK, OPERATOR
from services.build import audit_trail
from services.keys import ApiKey, new_key
from services.redis_keys import RedisKeys
from services.settings import default_settings


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


def _done(job: dict[str, Any]) -> dict[str, Any]:
    with store_url(job, may_make=job["action"] == "create") as url:
        return asyncio.run(perform(job, url))


if __name__ == "__main__":
    sys.exit(answer(_done))
