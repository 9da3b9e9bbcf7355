"""Runs the decoder on a thread of its own: rows join and leave its batch between steps."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any

from larimar.decoder import Decoder
from larimar.decoding import Batch, Row
from larimar.errors import DeadlineExceeded, ResourceExhausted
from services.observability.metrics import BATCH_SIZE, QUEUE_LENGTH, TOKENS, observe_stage
from services.observability.stages import passed

MAX_QUEUE = 128
"""Requests that may wait."""
PIECE_EVERY_S = 0.03
"""Least time between two messages of a stream: what is said in between goes out together."""


class Job:
    """A request on its way through the thread, and the queue that its answers come back by.

    Args:
        deadline_unix_s: when its caller stops waiting; 0 is never.
    """

    def __init__(self, deadline_unix_s: float) -> None:
        self.deadline_unix_s = deadline_unix_s
        self.abandoned = False
        self._loop = asyncio.get_running_loop()
        self._answers: asyncio.Queue = asyncio.Queue()

    @property
    def late(self) -> bool:
        """Whether its deadline has passed."""
        return bool(self.deadline_unix_s) and time.time() > self.deadline_unix_s

    async def answer(self) -> Any:
        """The next answer. Raises what went wrong."""
        answer = await self._answers.get()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def put(self, answer: Any) -> None:
        """Sends an answer, or an error, from the decoder's thread."""
        self._loop.call_soon_threadsafe(self._answers.put_nowait, answer)


class DecodeJob(Job):
    """A row that is decoded; its answers are pieces, the last with a finish reason.

    Args:
        streamed: False answers once, with the whole text.
    """

    def __init__(self, row: Row, deadline_unix_s: float, streamed: bool) -> None:
        super().__init__(deadline_unix_s)
        self.row = row
        self._streamed = streamed
        self._sent_s = 0.0
        self._came_s = time.monotonic()
        self._joined_s = self._first_s = self._last_s = 0.0

    def join(self, batch: Batch) -> None:
        """Lets its row into a batch."""
        self._joined_s = time.monotonic()
        batch.add(self.row)

    def say(self, now_s: float) -> None:
        """Sends what is ready: the first piece at once, later ones together, the last always."""
        self._first_s, self._last_s = self._first_s or now_s, now_s
        if not self.row.finished and not (self._streamed and now_s - self._sent_s >= PIECE_EVERY_S):
            return
        try:
            piece = self.row.take()
        except Exception as error:  # of this row alone, which leaves the batch
            self.abandoned = True
            self.put(error)
            return
        if piece.text or piece.finish_reason:
            self._sent_s = now_s
            self.put(piece)

    def tell(self) -> None:
        """Notes how long it waited for its first token and for the others, as far as it came."""
        waited_until_s = self._joined_s or time.monotonic()
        passed("decode_queue", self._came_s, waited_until_s)
        if self._first_s:
            passed("first_token", self._joined_s, self._first_s)
            passed("other_tokens", self._first_s, self._last_s, tokens=len(self.row.tail.ids))


class ScoreJob(Job):
    """Candidates that are scored between two steps; its answer is what `score` returns."""

    def __init__(self, score: Callable[[], Sequence[Any]], deadline_unix_s: float) -> None:
        super().__init__(deadline_unix_s)
        self.score = score


class Runner:
    """One thread that serves jobs, first come first served, as long as there are any."""

    def __init__(self, decoder: Decoder, executor: Executor) -> None:
        self._decoder = decoder
        self._executor = executor
        self._lock = threading.Lock()
        self._rows: deque[DecodeJob] = deque()
        self._scores: deque[ScoreJob] = deque()
        self._running = False
        self._waiting = QUEUE_LENGTH.labels("decode")
        self._size = BATCH_SIZE.labels("decode")
        decoder.look()

    def submit(self, job: DecodeJob | ScoreJob) -> None:
        """Queues a job. Raises: ResourceExhausted, when as many of its kind wait as may."""
        with self._lock:
            queue: deque = self._rows if isinstance(job, DecodeJob) else self._scores
            if len(queue) >= MAX_QUEUE:
                raise ResourceExhausted(
                    f"{MAX_QUEUE} calls are waiting, which is the limit: retry later", "QUEUE_FULL"
                )
            queue.append(job)
            self._waiting.set(len(self._rows) + len(self._scores))
            if not self._running:
                self._running = True
                self._executor.submit(self._run)

    def _run(self) -> None:
        batch, jobs = self._decoder.batch(), list[DecodeJob]()
        while True:
            with self._lock:
                if not (jobs or self._rows or self._scores):
                    self._running = False
                    return
            try:
                jobs = self._stepped(batch, jobs)
            except Exception as error:  # the batch is lost with what it held; later jobs are not
                for job in jobs:
                    job.put(error)
                batch, jobs = self._decoder.batch(), []
            self._score_one()

    def _stepped(self, batch: Batch, jobs: list[DecodeJob]) -> list[DecodeJob]:
        """One step of the batch with those that may join: the jobs that go on."""
        for job in [job for job in jobs if _leaves(job)]:
            batch.drop(job.row)
            jobs.remove(job)
        while batch.free and (job := self._next(self._rows)) is not None:
            job.join(batch)
            jobs.append(job)
        if not jobs:
            return jobs
        started_s, chosen = time.monotonic(), sum(job.row.chosen for job in jobs)
        batch.step()
        now_s = time.monotonic()
        observe_stage("decode_step", now_s - started_s)
        self._size.observe(len(jobs))
        TOKENS.inc(sum(job.row.chosen for job in jobs) - chosen)
        for job in jobs:
            job.say(now_s)
        return [job for job in jobs if not job.row.finished]

    def _score_one(self) -> None:
        job = self._next(self._scores)
        if job is not None:
            try:
                job.put(job.score())
            except Exception as error:  # its caller hears of it; the thread serves the next one
                job.put(error)

    def _next(self, queue: deque) -> Any:
        """The next job of a queue whose caller still waits, or None."""
        while True:
            with self._lock:
                if not queue:
                    return None
                job = queue.popleft()
                self._waiting.set(len(self._rows) + len(self._scores))
            if not _leaves(job):
                return job


def _leaves(job: Job) -> bool:
    """Whether nobody waits for a job any more; a caller who is late is told so."""
    if job.late and not job.abandoned:
        job.abandoned = True
        job.put(DeadlineExceeded("the deadline passed while the call waited or was decoded"))
    return job.abandoned
