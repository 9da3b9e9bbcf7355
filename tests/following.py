"""Small banks, a log that notes what is asked of it, and everything that a follower shows."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from larimar.errors import Unavailable
from larimar.memory import BankConfig, BankState, Kind, request_body
from services.follower import Follower
from services.log import Append, Log, MemoryLog
from services.observability import metrics
from services.observability.followers import OUTCOMES
from tests.banks import config_of, payload_of, reads_of

TENANT = "default"
BUDGET = 1 << 30
CONFIG = config_of("slots")


def noting_threads(function: Callable[..., Any]) -> tuple[Callable[..., Any], list[bool]]:
    """The function, and of each of its calls whether it was made beside the event loop."""
    calls: list[bool] = []

    def noted(*args: Any) -> Any:
        calls.append(threading.current_thread() is not threading.main_thread())
        return function(*args)

    return noted, calls


class NotedLog(MemoryLog):
    """The log in this process, which notes where tails begin and can be out of reach."""

    def __init__(self) -> None:
        super().__init__()
        self.tails: list[int] = []
        self.down = False

    async def tail(self, tenant, bank, after, limit, chain=None):
        self.tails.append(after)
        if self.down:
            raise Unavailable("the store does not answer", "STORE_DOWN")
        await asyncio.sleep(0)
        return await super().tail(tenant, bank, after, limit, chain)


def write_of(config: BankConfig, fact_id: str, variant: int, event_id: str = "") -> Append:
    payload = payload_of(config, fact_id, variant)
    body = request_body(Kind.WRITE, fact_id, payload.prompt, payload.answer, payload.rephrasings)
    event_id = event_id or f"write {fact_id} {variant}"
    return Append(Kind.WRITE, event_id, fact_id, body, payload.to_bytes())


def forget_of(fact_id: str, event_id: str = "") -> Append:
    body = request_body(Kind.FORGET, fact_id)
    return Append(Kind.FORGET, event_id or f"forget {fact_id}", fact_id, body)


async def filled(log: Log, bank: str = "b", config: BankConfig = CONFIG, n: int = 10) -> None:
    """A bank of n writes, some of them replacements, and a forget."""
    await log.make_bank(TENANT, bank, config)
    items = [write_of(config, f"fact {v % 7}", v) for v in range(n - 1)] + [forget_of("fact 0")]
    assert all(done.error is None for done in await log.append(TENANT, bank, items))


def erase_of(fact_id: str, event_id: str = "") -> Append:
    body = request_body(Kind.ERASE, fact_id)
    return Append(Kind.ERASE, event_id or f"erase {fact_id}", fact_id, body)


def frozen(state: BankState) -> tuple:
    """All of a state that does not tell of its history in this process."""
    tensors, metadata = state.to_tensors()
    arrays = {name: array.tobytes() for name, array in tensors.items()}
    return arrays, metadata, dict(state.facts), state.folded_sha256(), reads_of(state, state.config)


async def state_of(follower: Follower, bank: str = "b", min_version: int = 0) -> tuple:
    async with follower.state(TENANT, bank, min_version) as state:
        return frozen(state)


def checkpoint_counts() -> dict[str, float]:
    """What alerts look at: checkpoints of memory by outcome, and those that are damaged."""
    counts = {one: metrics.CHECKPOINTS.labels("memory", one)._value.get() for one in OUTCOMES}
    return counts | {"damaged": metrics.DIGEST_MISMATCHES.labels("checkpoint")._value.get()}


def both(log: MemoryLog, **settings) -> Follower:
    return Follower(log, ("memory", "scope"), **{"state_budget_bytes": BUDGET} | settings)
