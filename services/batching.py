"""Dynamic batching: what waits while a batch runs forms the next one."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any

from larimar.errors import DeadlineExceeded, ResourceExhausted
from services.observability.metrics import BATCH_SIZE, QUEUE_LENGTH
from services.observability.stages import passed


@dataclasses.dataclass
class _Waiting:
    item: Any
    weight: int
    deadline_unix_s: float
    answer: asyncio.Future
    came_s: float = dataclasses.field(default_factory=time.monotonic)
    batch_began_s: float = 0.0
    batch_weight: int = 0


class Batcher:
    """Runs items in batches on an executor, first come first served, never waiting for more.

    Args:
        run: called on the executor with a list of items; returns one answer (or exception)
            per item, in order. If it raises, every item of the batch gets the exception.
        max_weight: most weight (rows, texts) of one batch.
        max_queue: most items that may wait; one more is RESOURCE_EXHAUSTED.
        stage: what a run is called in metrics and traces; the wait for it has _queue behind that.
    """

    def __init__(
        self,
        run: Callable[[list[Any]], Sequence[Any]],
        executor: Executor,
        max_weight: int,
        max_queue: int,
        stage: str = "batch",
    ) -> None:
        self._run = run
        self._executor = executor
        self._max_weight = max_weight
        self._max_queue = max_queue
        self._stage = stage
        self._size = BATCH_SIZE.labels(stage)
        self._length = QUEUE_LENGTH.labels(stage)
        self._queue: deque[_Waiting] = deque()
        self._worker: asyncio.Task | None = None

    async def submit(self, item: Any, weight: int = 1, deadline_unix_s: float = 0.0) -> Any:
        """The answer to one item.

        Raises:
            ResourceExhausted: the queue is full; nothing was done.
            DeadlineExceeded: the caller's time ran out while the item waited.
        """
        if len(self._queue) >= self._max_queue:
            raise ResourceExhausted(
                f"{self._max_queue} calls are waiting, which is the limit: retry later",
                "QUEUE_FULL",
            )
        answer: asyncio.Future = asyncio.get_running_loop().create_future()
        waiting = _Waiting(item, weight, deadline_unix_s, answer)
        self._queue.append(waiting)
        self._length.set(len(self._queue))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        try:
            return await answer
        finally:
            self._tell(waiting)

    def _tell(self, waiting: _Waiting) -> None:
        """Notes how long an item waited for its batch, and how long the batch ran."""
        now_s, began_s = time.monotonic(), waiting.batch_began_s
        passed(f"{self._stage}_queue", waiting.came_s, began_s or now_s)
        if began_s:
            passed(self._stage, began_s, now_s, batch=waiting.batch_weight)

    def _take(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        weight = 0
        while self._queue:
            head = self._queue[0]
            if batch and weight + head.weight > self._max_weight:
                break
            self._queue.popleft()
            if head.answer.cancelled():
                continue
            if head.deadline_unix_s and time.time() > head.deadline_unix_s:
                head.answer.set_exception(DeadlineExceeded("the deadline passed in the queue"))
                continue
            batch.append(head)
            weight += head.weight
        self._length.set(len(self._queue))
        if batch:
            self._size.observe(weight)
        for waiting in batch:
            waiting.batch_began_s, waiting.batch_weight = time.monotonic(), weight
        return batch

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while batch := self._take():
            items = [waiting.item for waiting in batch]
            try:
                answers = await loop.run_in_executor(self._executor, self._run, items)
            except Exception as error:
                answers = [error] * len(batch)
            for waiting, answer in zip(batch, answers, strict=True):
                if waiting.answer.done():
                    continue
                if isinstance(answer, Exception):
                    waiting.answer.set_exception(answer)
                else:
                    waiting.answer.set_result(answer)
