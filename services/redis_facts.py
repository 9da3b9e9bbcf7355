"""What a Redis or Valkey server says of itself."""

from __future__ import annotations

from dataclasses import dataclass

from services.redis_calls import RedisCalls


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """The condition of a store."""

    version: str
    uptime_s: int
    used_bytes: int
    limit_bytes: int
    """0: as much as the machine has."""
    file_bytes: int
    """Of the append-only file; 0 where there is none."""
    writes: bool
    """Whether the last write to the append-only file went well."""
    rewrites: bool
    """Whether the last rewrite of it did."""
    replicas: int
    """That are connected."""


async def store_facts(calls: RedisCalls) -> StoreFacts:
    """The condition of a store. Raises: Unavailable."""
    told = await calls.call("INFO")
    return StoreFacts(
        version=str(told.get("valkey_version") or told.get("redis_version", "")),
        uptime_s=int(told.get("uptime_in_seconds", 0)),
        used_bytes=int(told.get("used_memory", 0)),
        limit_bytes=int(told.get("maxmemory", 0)),
        file_bytes=int(told.get("aof_current_size", 0)),
        writes=told.get("aof_last_write_status", "ok") == "ok",
        rewrites=told.get("aof_last_bgrewrite_status", "ok") == "ok",
        replicas=int(told.get("connected_slaves", 0)),
    )
