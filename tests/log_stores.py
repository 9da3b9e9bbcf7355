"""Fixtures of the log: an embedded store, and a log in each kind of store, with one bank."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
import redis

from services.log import Log, MemoryLog
from services.redis_log import RedisLog
from services.store import EmbeddedStore
from tests.logs import CONFIG, PATIENCE_S, B, T


@pytest.fixture(scope="session")
def store() -> Iterator[EmbeddedStore]:
    """Nothing is cut off from it: what it acknowledges need not wait for the disk."""
    folder = tempfile.mkdtemp(prefix="test-log-")
    with EmbeddedStore(folder) as running:
        with redis.Redis.from_url(running.url) as client:
            client.config_set("appendfsync", "no")
        yield running
    shutil.rmtree(folder)


@pytest.fixture
def raw(store: EmbeddedStore) -> Iterator[redis.Redis]:
    """A client that does what no service may; finds and leaves an empty store."""
    with redis.Redis.from_url(store.url) as client:
        client.flushall()
        yield client
        client.flushall()


@pytest_asyncio.fixture
async def redis_bank(store: EmbeddedStore, raw: redis.Redis) -> AsyncIterator[RedisLog]:
    log = RedisLog(store.url, part_bytes=1000, timeout_s=PATIENCE_S)
    await log.make_bank(T, B, CONFIG)
    yield log
    await log.close()


@pytest_asyncio.fixture(params=["memory", "redis"])
async def log(
    request: pytest.FixtureRequest, store: EmbeddedStore, raw: redis.Redis
) -> AsyncIterator[Log]:
    made: Log = MemoryLog()
    if request.param == "redis":
        made = RedisLog(store.url, part_bytes=1000, timeout_s=PATIENCE_S)
    await made.make_bank(T, B, CONFIG)
    yield made
    await made.close()
