"""Calls to Redis or Valkey: bounded in time, never repeated, failures as our errors."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

from redis import exceptions
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from larimar.errors import LarimarError, ResourceExhausted, Unavailable
from services.observability.metrics import STORE_ERRORS, STORE_SECONDS
from services.redis_scripts import Script

TIMEOUT_S = 2.0
"""Longest round trip, seconds, connecting included: past it the store is taken to be gone."""
MAX_CONNECTIONS = 32
"""Most connections of one caller; more calls than that wait for one."""

_DOWN = (exceptions.ConnectionError, exceptions.TimeoutError, TimeoutError, OSError)
_REFUSES = (
    exceptions.ReadOnlyError,
    exceptions.MasterDownError,
    exceptions.ClusterDownError,
    exceptions.TryAgainError,
)
WAITED_SHARE = 0.8
"""Share of the longest round trip that a script's writer waits for replicas."""
_REFUSALS = ("MISCONF", "NOREPLICAS", "BUSY ")
"""First words of a server's error that mean "not now", whoever asks, and have no class."""


class RedisCalls:
    """Commands and scripts on one Redis or Valkey server; bound to one event loop.

    Args:
        url: unix:///path/to/redis.sock, redis://host:port or rediss://host:port.
        timeout_s: longest round trip, seconds.
        replicas: how many replicas of the server must confirm what a script wrote before its
            answer counts (WAIT); 0 asks none.
    """

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S, replicas: int = 0) -> None:
        # RESP2: the plainest protocol, and no subscription to a vendor's notices. No retries
        # and no socket timeouts below ours: one bound, and the caller decides what to repeat.
        self._redis = Redis.from_pool(
            BlockingConnectionPool.from_url(
                url,
                max_connections=MAX_CONNECTIONS,
                timeout=None,
                protocol=2,
                retry=Retry(NoBackoff(), 0),
                socket_timeout=None,
                socket_connect_timeout=None,
                socket_read_size=2**16,
            )
        )
        parts = urlsplit(url)
        self._is_local = parts.scheme == "unix"
        self._where = (
            unquote(parts.path) if parts.scheme == "unix" else parts.netloc.rpartition("@")[2]
        )
        self._timeout_s = timeout_s
        self._replicas = replicas

    async def call(self, *command: Any) -> Any:
        """One command.

        Raises:
            Unavailable: STORE_DOWN; whether it was done is unknown. STORE_REFUSES: it was not.
            ResourceExhausted: STORE_FULL; it was not done.
        """
        with self._translated(str(command[0]).lower()):
            return await self._bounded(*command)

    async def calls(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Several commands in one round trip. Raises as `call`."""
        with self._translated("pipeline"):
            async with asyncio.timeout(self._timeout_s), self._redis.pipeline(False) as pipe:
                for command in commands:
                    pipe.execute_command(*command)
                return await pipe.execute()

    async def run(self, script: Script, keys: Sequence[Any], arguments: Sequence[Any] = ()) -> Any:
        """A script, by its digest, or whole when the server does not hold it.

        Raises:
            Unavailable: as `call`; NOT_CONFIRMED, it was done, but too few replicas have it yet.
            ResourceExhausted: as `call`.
        """
        suffix, given = "_RO" if script.reads_only else "", (len(keys), *keys, *arguments)
        send = self._confirmed if self._replicas and not script.reads_only else self._bounded
        with self._translated(script.name):
            try:
                return await send("EVALSHA" + suffix, script.sha1, *given)
            except exceptions.NoScriptError:
                return await send("EVAL" + suffix, script.source, *given)

    async def close(self) -> None:
        """Ends all connections."""
        await self._redis.aclose()

    async def _bounded(self, *command: Any) -> Any:
        async with asyncio.timeout(self._timeout_s):
            return await self._redis.execute_command(*command)

    async def _confirmed(self, *command: Any) -> Any:
        """A command's answer, once as many replicas as wanted have taken in what it wrote.

        The message that nobody hears gives this connection something to wait for when the command
        found its work done before, by a call whose answer was lost.
        """
        patience_ms = int(1000 * self._timeout_s * WAITED_SHARE)
        async with asyncio.timeout(self._timeout_s), self._redis.pipeline(False) as pipe:
            pipe.execute_command(*command)
            pipe.execute_command("PUBLISH", "larimar:confirm", "")
            pipe.execute_command("WAIT", self._replicas, patience_ms)
            answer, _, confirmed = await pipe.execute(raise_on_error=False)
        for found in (answer, confirmed):
            if isinstance(found, Exception):
                raise found
        if confirmed < self._replicas:
            raise Unavailable(
                f"the store at {self._where} has it, but {confirmed} of {self._replicas} replicas "
                "confirmed: a failover could lose it; retry it under its event id",
                "NOT_CONFIRMED",
            )
        return answer

    @contextlib.contextmanager
    def _translated(self, name: str) -> Iterator[None]:
        """Around a round trip: its time counts under a name, its failure becomes one of ours."""
        started_s = time.monotonic()
        try:
            with self._as_ours():
                yield
        except (Unavailable, ResourceExhausted) as error:
            STORE_ERRORS.labels(error.reason).inc()
            raise
        finally:
            STORE_SECONDS.labels(name).observe(time.monotonic() - started_s)

    @contextlib.contextmanager
    def _as_ours(self) -> Iterator[None]:
        try:
            yield
        except exceptions.OutOfMemoryError as error:
            raise ResourceExhausted(
                f"the store at {self._where} is full ({error}): nothing was done; raise its "
                "maxmemory or delete banks",
                "STORE_FULL",
            ) from error
        except _DOWN as error:
            why = f"{type(error).__name__}: {error}".rstrip(": ")
            raise Unavailable(
                f"the store at {self._where} does not answer within {self._timeout_s} s ({why}); "
                "whether an edit was made is unknown: retry it under its event id",
                "STORE_DOWN",
            ) from error
        except exceptions.RedisError as error:
            if isinstance(error, _REFUSES) or str(error).startswith(_REFUSALS):
                raise Unavailable(
                    f"the store at {self._where} refuses for now: {error}", "STORE_REFUSES"
                ) from error
            raise LarimarError(f"the store at {self._where} answers: {error}") from error
