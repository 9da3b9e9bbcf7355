"""Concurrent publishers of the log against plain XADD of the same bytes by the same client library.

Both sides write to one embedded store, which fsyncs before it answers. Each of the publishers
appends one event at a time and waits for its acknowledgement, as a gateway does.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable

from redis.asyncio import Redis

from benchmarks.measure import Aim, Report, in_turns, ratio_of_medians
from larimar.errors import LarimarError
from larimar.memory import BankConfig, Kind, next_chain, request_body, request_hmac, salted_sha256
from services.log import Append
from services.redis_log import RedisLog
from services.store import EmbeddedStore

PUBLISHERS = 8
EVENTS, ROUNDS = 4000, 5
QUICK_EVENTS, QUICK_ROUNDS = 160, 2
"""Events of one round, of all publishers together."""
PAYLOAD_BYTES = 1000
"""About a fact of the shipped model: two latents, a sentence embedding and its texts."""
SALT_BYTES = 16
AIM = Aim(0.5, at_least=True)
"""The script, its hashes and its indexes may cost as much as the bare append itself."""
T, B = "benchmark", "bank"


def run(quick: bool, use_ray: bool, told: Callable[[str], None]) -> Report:
    """Events a second of both sides, in turns; Ray has no part in an append.

    Raises:
        LarimarError: an event was refused, or the store does not hold what was acknowledged.
    """
    events, rounds = (QUICK_EVENTS, QUICK_ROUNDS) if quick else (EVENTS, ROUNDS)
    with (
        tempfile.TemporaryDirectory(prefix="larimar-append-") as folder,
        EmbeddedStore(folder) as store,
        asyncio.Runner() as runner,
    ):
        sides = Sides(store.url)
        try:
            runner.run(sides.open())
            found = in_turns(
                {
                    "log": lambda: runner.run(sides.rate(sides.append, events)),
                    "XADD": lambda: runner.run(sides.rate(sides.xadd, events)),
                },
                rounds,
                told,
            )
            runner.run(sides.check())
        finally:
            runner.run(sides.close())
    report = Report(
        {
            "publishers": PUBLISHERS,
            "events": events,
            "payload_bytes": PAYLOAD_BYTES,
            "rounds": rounds,
        }
    )
    for side, rates in found.items():
        report.measure(side, "events/s", rates)
    report.compare("log against XADD", ratio_of_medians(found["log"], found["XADD"]), AIM)
    return report


class Sides:
    """The log, and the bare stream beside it, on one store."""

    def __init__(self, url: str) -> None:
        self.log = RedisLog(url)
        self.item = Append
        self.bare = Redis.from_url(url, max_connections=PUBLISHERS, protocol=2)
        self.appended = 0
        self.added = 0

    async def open(self) -> None:
        """Makes the bank."""
        await self.log.make_bank(T, B, BankConfig(prompt_size=1, value_size=1, scope_size=1))

    async def append(self, number: int) -> None:
        """One event through the log. Raises LarimarError when it is refused."""
        fact_id, payload = f"fact-{number}", os.urandom(PAYLOAD_BYTES)
        body = request_body(Kind.WRITE, fact_id, "prompt", "answer")
        item = self.item(Kind.WRITE, f"event-{number}", fact_id, body, payload)
        (result,) = await self.log.append(T, B, [item])
        if result.error is not None:
            raise result.error
        self.appended += 1

    async def xadd(self, number: int) -> None:
        """The same bytes as one plain entry, digests included."""
        fact_id, event_id = f"fact-{number}", f"event-{number}"
        salted = os.urandom(SALT_BYTES + PAYLOAD_BYTES)
        body = request_body(Kind.WRITE, fact_id, "prompt", "answer")
        sha256 = salted_sha256(salted)
        time_ms = time.time_ns() // 10**6
        entry = {
            "kind": "W",
            "fact": fact_id,
            "event": event_id,
            "time_ms": time_ms,
            "sha256": sha256,
            "chain": next_chain("", number, "W", fact_id, event_id, time_ms, sha256),
            "prev": 0,
            "hmac": request_hmac(salted[:SALT_BYTES], body),
            "payload": salted,
        }
        await self.bare.xadd("bare", entry)
        self.added += 1

    async def rate(self, write: Callable[[int], Awaitable[None]], events: int) -> float:
        """Acknowledged events a second of all publishers together."""
        first = self.appended + self.added

        async def publish(publisher: int) -> None:
            for number in range(publisher, events, PUBLISHERS):
                await write(first + number)

        started = time.perf_counter()
        await asyncio.gather(*(publish(publisher) for publisher in range(PUBLISHERS)))
        return events / (time.perf_counter() - started)

    async def check(self) -> None:
        """Raises LarimarError unless the store holds every acknowledged event."""
        version, *_ = await self.log.head(T, B)
        if (version, await self.bare.xlen("bare")) != (self.appended, self.added):
            raise LarimarError("the store does not hold what it acknowledged", "BAD_MEASUREMENT")

    async def close(self) -> None:
        """Ends all connections."""
        await self.log.close()
        await self.bare.aclose()
