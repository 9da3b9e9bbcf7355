"""API keys in Redis: the hash ``larimar:keys``, key id -> record without the secret."""

from __future__ import annotations

import dataclasses
import time

from larimar.errors import ResourceExhausted
from services.keys import MAX_KEYS, ApiKey, unknown_key
from services.redis_calls import TIMEOUT_S, RedisCalls

HASH = "larimar:keys"


class RedisKeys:
    """The keys of one Redis or Valkey server; bound to one event loop.

    Args:
        url: as of services.redis_log.RedisLog.
    """

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S) -> None:
        self._calls = RedisCalls(url, timeout_s)

    async def add(self, key: ApiKey) -> None:
        """See Keys."""
        if await self._calls.call("HLEN", HASH) >= MAX_KEYS:
            raise ResourceExhausted(f"a store holds at most {MAX_KEYS} API keys", "TOO_MANY_KEYS")
        await self._calls.call("HSET", HASH, key.key_id, key.to_json())

    async def find(self, key_id: str) -> ApiKey | None:
        """See Keys."""
        found = await self._calls.call("HGET", HASH, key_id)
        return ApiKey.from_json(found) if found is not None else None

    async def all(self) -> list[ApiKey]:
        """See Keys."""
        found = [ApiKey.from_json(text) for text in await self._calls.call("HVALS", HASH)]
        return sorted(found, key=lambda key: (key.created_ms, key.key_id))

    async def revoke(self, key_id: str) -> ApiKey:
        """See Keys."""
        key = await self.find(key_id)
        if key is None:
            raise unknown_key()
        if not key.revoked_ms:
            key = dataclasses.replace(key, revoked_ms=int(time.time() * 1000))
            await self._calls.call("HSET", HASH, key_id, key.to_json())
        return key

    async def close(self) -> None:
        """See Keys."""
        await self._calls.close()
