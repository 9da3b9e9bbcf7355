"""Appends to the log in Redis, committed in groups.

While one script call of a bank is in flight, further appends to it wait and go together in the
next one: one fsync carries them all. Each keeps its own results, and its batch is whole in one
call, so it stays atomic.
"""

from __future__ import annotations

import asyncio
import contextvars
import copy
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from larimar.errors import LarimarError, Unavailable
from larimar.memory import BankConfig, Kind
from services.log import Append, Appended
from services.log_rules import (
    MAX_BATCH,
    MAX_BATCH_BYTES,
    SWITCHED,
    bank_switched,
    check_items,
    check_names,
)
from services.observability.metrics import BATCH_SIZE
from services.redis_entries import append_arguments, appended
from services.redis_scripts import APPEND, ERASE, ERASE_CHECK
from services.redis_store import Keys, RedisStore


@dataclass
class _Waiting:
    """One caller's batch."""

    arguments: list[tuple[str | bytes, ...]]
    size: int
    """Payload bytes."""
    config: str
    """What the payloads are made for, as the store has it; empty for any."""
    answers: asyncio.Future[list[Any]]


class RedisAppends(RedisStore):
    """The part of `RedisLog` that writes events."""

    def __init__(self, url: str, timeout_s: float, max_events: int, replicas: int = 0) -> None:
        super().__init__(url, timeout_s, replicas)
        self._max_events = max_events
        self._waiting: dict[tuple[str, str], deque[_Waiting]] = {}
        self._senders: set[asyncio.Task[None]] = set()

    async def append(
        self,
        tenant: str,
        bank: str,
        items: Sequence[Append],
        config: BankConfig | None = None,
    ) -> list[Appended]:
        """See Log. Cost: with fsync always one fsync a group, whoever appends."""
        check_names(tenant, bank)
        errors = check_items(items, (Kind.WRITE, Kind.FORGET))
        sent = [item for item, error in zip(items, errors, strict=True) if error is None]
        mine = _Waiting(
            [append_arguments(item) for item in sent],
            sum(len(item.payload or b"") for item in sent),
            "" if config is None else config.to_json(),
            asyncio.get_running_loop().create_future(),
        )
        waiting = self._waiting.get((tenant, bank))
        if waiting is None:
            waiting = self._waiting[tenant, bank] = deque()
            # In a context of its own: it also carries what comes after this call.
            sender = asyncio.create_task(
                self._send(tenant, bank, waiting), context=contextvars.Context()
            )
            self._senders.add(sender)
            sender.add_done_callback(self._senders.discard)
        waiting.append(mine)
        return self._results(bank, items, errors, await mine.answers)

    async def erase(self, tenant: str, bank: str, items: Sequence[Append]) -> list[Appended]:
        """See Log. The limit on a bank's events does not apply: a full bank can be erased from.

        Cost: a call for every MAX_BATCH events in all banks of the family together.
        """
        check_names(tenant, bank)
        errors = check_items(items, (Kind.ERASE,))
        sent = [
            append_arguments(item)
            for item, error in zip(items, errors, strict=True)
            if error is None
        ]

        async def everywhere(keys: Keys) -> list[Any]:
            answers: list[Any] = []
            look = True
            while True:
                members = await self.call("HKEYS", keys.family)
                others = sorted(name for name in members if name != bank.encode())
                step = max(1, MAX_BATCH // (len(others) + 1))
                if look and len(sent) > step:
                    look = bool(await self._ask_at(keys, ERASE_CHECK, *_flat(sent)))
                # Where an event id is taken, one call answers for all and appends nothing.
                part = sent[len(answers) :][: len(sent) if look else step]
                about = (int(look), len(others), *others, *_flat(part))
                found = await self._ask_at(keys, ERASE, *about)
                if found != -1:
                    answers += found
                if len(answers) == len(sent):
                    return answers

        answers = await self._on_bank(tenant, bank, everywhere)
        return self._results(bank, items, errors, answers)

    async def close(self) -> None:
        """See Log. What was handed over before is sent first."""
        await asyncio.gather(*self._senders, return_exceptions=True)
        await super().close()

    def _results(
        self,
        bank: str,
        items: Sequence[Append],
        errors: Sequence[LarimarError | None],
        answers: list[Any],
    ) -> list[Appended]:
        answer = iter(answers)
        return [
            appended(bank, item, next(answer), self._max_events)
            if error is None
            else Appended(0, error=error)
            for item, error in zip(items, errors, strict=True)
        ]

    async def _send(self, tenant: str, bank: str, waiting: deque[_Waiting]) -> None:
        """Sends what waits, group by group, until nothing does."""
        group: list[_Waiting] = []
        try:
            while waiting:
                group = _next_group(waiting)
                arguments = _flat([item for one in group for item in one.arguments])
                BATCH_SIZE.labels("append").observe(sum(len(one.arguments) for one in group))
                try:
                    limits = (self._max_events, group[0].config)
                    answers = await self._ask(tenant, bank, APPEND, *limits, *arguments)
                    if answers == -1:
                        raise bank_switched(bank)
                except Exception as error:
                    if isinstance(error, Unavailable) and error.reason != SWITCHED:
                        # Nobody waits out one timeout after another while the store is gone.
                        group += waiting
                        waiting.clear()
                    _fail(group, error)
                else:
                    _answer(group, answers)
        finally:
            del self._waiting[tenant, bank]
            left = Unavailable("the log was closed: retry under the same event ids", "STORE_DOWN")
            _fail([*group, *waiting], left)


def _flat(items: Sequence[tuple[str | bytes, ...]]) -> list[str | bytes]:
    return [argument for item in items for argument in item]


def _next_group(waiting: deque[_Waiting]) -> list[_Waiting]:
    """Whole batches from the front, made for one configuration, as many as one call carries; at
    least one."""
    group = [waiting.popleft()]
    count, size = len(group[0].arguments), group[0].size
    while waiting:
        count += len(waiting[0].arguments)
        size += waiting[0].size
        other = waiting[0].config != group[0].config
        if other or count > MAX_BATCH or size > MAX_BATCH_BYTES:
            break
        group.append(waiting.popleft())
    return group


def _answer(group: list[_Waiting], answers: list[Any]) -> None:
    start = 0
    for one in group:
        end = start + len(one.arguments)
        if not one.answers.done():
            one.answers.set_result(answers[start:end])
        start = end


def _fail(group: list[_Waiting], error: Exception) -> None:
    """Gives every caller that still waits an error of its own."""
    for one in group:
        if not one.answers.done():
            own = copy.copy(error) if isinstance(error, LarimarError) else error
            own.__cause__ = error.__cause__
            one.answers.set_exception(own)
