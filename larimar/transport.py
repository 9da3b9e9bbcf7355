"""Calls over a channel, blocking and asynchronous: the waiting and sending of both clients.

Every call has a deadline and is attempted again, with a growing pause, for as long as
the pipeline is UNAVAILABLE and time remains. All other errors are raised as they
come, as the classes of `larimar.errors`.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

import grpc
from google.protobuf.message import Message

from larimar import batches, calls, messages
from larimar.errors import FailedPrecondition, LarimarError, ResourceExhausted, Unavailable
from larimar.results import Answer, Edit, FailedWrite
from larimar.security import OPEN, Security, why_unreachable
from larimar.v1.common_pb2 import Status
from larimar.v1.larimar_pb2 import (
    AskRequest,
    AskResponse,
    CloudEvent,
    PublishManyRequest,
    PublishManyResponse,
    PublishResponse,
)
from larimar.v1.larimar_pb2_grpc import LarimarStub

T = TypeVar("T")

# What a first call asks to see that somebody is there. (To watch the channel's state
# instead takes a thread of grpc that complains when the channel is closed soon.)
HEALTH_CHECK = "/grpc.health.v1.Health/Check"


class _Terms:
    """Target, timeouts and security of a connection."""

    def __init__(
        self,
        target: str,
        timeout_s: float,
        connect_timeout_s: float,
        security: Security = OPEN,
    ) -> None:
        self.target = calls.check_target(target)
        self.security = security
        self.credentials = security.credentials()
        self.timeout_s = calls.check_timeout(timeout_s)
        self.connect_timeout_s = calls.check_timeout(connect_timeout_s)
        self.reached = False
        self.closed = False

    def budget(self, timeout_s: float | None) -> calls.Budget:
        """The time of one call; raises FailedPrecondition when the connection is closed."""
        if self.closed:
            raise FailedPrecondition("the client is closed; connect again", "CLOSED")
        return calls.Budget(self.timeout_s if timeout_s is None else calls.check_timeout(timeout_s))


class _KeyedStub:
    """A generated stub whose calls carry metadata."""

    def __init__(self, channel: Any, metadata: tuple[tuple[str, str], ...]) -> None:
        self._stub = LarimarStub(channel)
        self._metadata = metadata

    def __getattr__(self, method: str) -> Callable[..., Any]:
        return functools.partial(getattr(self._stub, method), metadata=self._metadata)


class Connection(_Terms):
    """A blocking channel to a pipeline; threads may share it."""

    def __init__(
        self,
        target: str,
        timeout_s: float,
        connect_timeout_s: float,
        security: Security = OPEN,
    ) -> None:
        super().__init__(target, timeout_s, connect_timeout_s, security)
        self._channel = (
            grpc.insecure_channel(self.target, options=calls.CHANNEL_OPTIONS)
            if self.credentials is None
            else grpc.secure_channel(self.target, self.credentials, calls.CHANNEL_OPTIONS)
        )
        self._stub: Any = _KeyedStub(self._channel, security.metadata)

    def close(self) -> None:
        """Ends the channel and every call on it."""
        self.closed = True
        self._channel.close()

    def call(self, name: str, request: Message, timeout_s: float | None, event_id: str = "") -> Any:
        """The response of a unary call; `event_id` is that of an edit."""

        def attempt(budget: calls.Budget) -> Any:
            try:
                return getattr(self._stub, name)(request, timeout=budget.remaining_s())
            except grpc.RpcError as raised:
                raise calls.to_error(raised, self.target, budget, event_id) from None

        return self._retry(attempt, timeout_s)

    def answer(self, request: AskRequest, timeout_s: float | None) -> Answer:
        """The whole answer; a stream that breaks is begun again."""
        request.whole = True
        whole = self._retry(lambda budget: list(self._attempt(request, budget))[-1], timeout_s)
        return cast("Answer", whole)

    def pieces(self, request: AskRequest, timeout_s: float | None) -> Iterator[str | Answer]:
        """The answer as it comes; a stream that breaks after its first piece is over."""

        def begin(budget: calls.Budget) -> tuple[str | Answer, Iterator[str | Answer]]:
            attempt = self._attempt(request, budget)
            return next(attempt), attempt

        first, rest = self._retry(begin, timeout_s)
        yield first
        yield from rest

    def write_group(self, group: batches.Group) -> Iterator[Edit | FailedWrite]:
        """The results of a group of facts, in order, over as many streams as it takes."""
        yield from group.refused()
        while group:
            self._reach(group.budget)
            error: LarimarError = group.cut_short()
            call = self._stub.WriteMany(group.requests(), timeout=group.budget.remaining_s())
            try:
                for response in call:
                    yield group.settle(response)
                    yield from group.refused()
            except grpc.RpcError as raised:
                error = calls.to_error(raised, self.target, group.budget)
            except Unavailable as raised:
                error = raised
            finally:
                call.cancel()
            if group:
                pause = group.pause_s(error)
                if pause is None:
                    error = group.budget.outcome(error)
                    yield from group.give_up(error)
                    raise error
                time.sleep(pause)

    def publish_group(
        self, events: Sequence[CloudEvent], timeout_s: float | None
    ) -> Iterator[PublishManyResponse]:
        """A result for each event, in order, over as many streams as it takes.

        Where the tenant's rate is met the rest waits, until nothing was taken for the timeout.
        """
        budget, left = self.budget(timeout_s), deque(events)
        while left:
            waiting = len(left)
            self._reach(budget)
            requests = (PublishManyRequest(event=event) for event in tuple(left))
            call = self._stub.PublishMany(requests, timeout=budget.remaining_s())
            try:
                for response in call:
                    _raise_transient(response)
                    left.popleft()
                    yield response
                return
            except grpc.RpcError as raised:
                error: LarimarError = calls.to_error(raised, self.target, budget)
            except LarimarError as raised:
                error = raised
            finally:
                call.cancel()
            if isinstance(error, _RateLimited) and len(left) < waiting:
                budget = self.budget(timeout_s)
            pause = budget.pause_s(error)
            if pause is None:
                outcome = budget.outcome(error)
                if not isinstance(outcome, _RateLimited):
                    raise outcome
                for event in left:
                    yield _refused(event, outcome)
                return
            time.sleep(pause)

    def _reach(self, budget: calls.Budget) -> None:
        """Waits until something answers, be it with an error; raises Unavailable else."""
        if self.reached:
            return
        knock = self._channel.unary_unary(HEALTH_CHECK)
        timeout = min(self.connect_timeout_s, budget.remaining_s())
        try:
            knock(b"", wait_for_ready=True, timeout=timeout)
        except grpc.RpcError as raised:
            if raised.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise why_unreachable(self.target, self.security) from None
        self.reached = True

    def _retry(self, attempt: Callable[[calls.Budget], T], timeout_s: float | None) -> T:
        """The outcome of the first attempt that did not meet UNAVAILABLE."""
        budget = self.budget(timeout_s)
        self._reach(budget)
        while True:
            try:
                return attempt(budget)
            except LarimarError as error:
                pause = budget.pause_s(error)
                if pause is None:
                    raise budget.outcome(error) from None
            time.sleep(pause)

    def _attempt(self, request: AskRequest, budget: calls.Budget) -> Iterator[str | Answer]:
        """One attempt at an answer: its pieces of text, then the whole."""
        call = self._stub.Ask(request, timeout=budget.remaining_s())
        text, last = [], AskResponse()
        try:
            for last in call:
                if last.text:
                    text.append(last.text)
                    yield last.text
        except grpc.RpcError as raised:
            raise calls.to_error(raised, self.target, budget) from None
        finally:
            call.cancel()
        yield messages.answer("".join(text), last)


class AsyncConnection(_Terms):
    """A channel to a pipeline for one event loop, opened by the first call."""

    def __init__(
        self,
        target: str,
        timeout_s: float,
        connect_timeout_s: float,
        security: Security = OPEN,
    ) -> None:
        super().__init__(target, timeout_s, connect_timeout_s, security)
        self._channel: grpc.aio.Channel | None = None
        self._stub: Any = None

    async def close(self) -> None:
        """Ends the channel and every call on it."""
        self.closed = True
        if self._channel is not None:
            await self._channel.close()

    async def call(
        self, name: str, request: Message, timeout_s: float | None, event_id: str = ""
    ) -> Any:
        """The response of a unary call; `event_id` is that of an edit."""

        async def attempt(budget: calls.Budget) -> Any:
            try:
                return await getattr(self._stub, name)(request, timeout=budget.remaining_s())
            except grpc.RpcError as raised:
                raise calls.to_error(raised, self.target, budget, event_id) from None

        return await self._retry(attempt, timeout_s)

    async def answer(self, request: AskRequest, timeout_s: float | None) -> Answer:
        """The whole answer; a stream that breaks is begun again."""
        request.whole = True

        async def attempt(budget: calls.Budget) -> str | Answer:
            return [piece async for piece in self._attempt(request, budget)][-1]

        return cast("Answer", await self._retry(attempt, timeout_s))

    async def pieces(
        self, request: AskRequest, timeout_s: float | None
    ) -> AsyncIterator[str | Answer]:
        """The answer as it comes; a stream that breaks after its first piece is over."""

        async def begin(budget: calls.Budget) -> tuple[str | Answer, Any]:
            attempt = self._attempt(request, budget)
            return await anext(attempt), attempt

        first, rest = await self._retry(begin, timeout_s)
        try:
            yield first
            async for piece in rest:
                yield piece
        finally:
            await rest.aclose()

    async def write_group(self, group: batches.Group) -> AsyncIterator[Edit | FailedWrite]:
        """The results of a group of facts, in order, over as many streams as it takes."""
        for refused in group.refused():
            yield refused
        answered = asyncio.Event()
        answered.set()
        while group:
            await self._reach(group.budget)
            error: LarimarError = group.cut_short()
            requests = _one_then_all(group.requests(), answered)
            call = self._stub.WriteMany(requests, timeout=group.budget.remaining_s())
            try:
                async for response in call:
                    answered.set()
                    yield group.settle(response)
                    for refused in group.refused():
                        yield refused
            except grpc.RpcError as raised:
                error = calls.to_error(raised, self.target, group.budget)
            except Unavailable as raised:
                error = raised
            finally:
                call.cancel()
            answered.clear()
            if group:
                pause = group.pause_s(error)
                if pause is None:
                    error = group.budget.outcome(error)
                    for unknown in group.give_up(error):
                        yield unknown
                    raise error
                await asyncio.sleep(pause)

    async def publish_group(
        self, events: Sequence[CloudEvent], timeout_s: float | None
    ) -> AsyncIterator[PublishManyResponse]:
        """A result for each event, in order, over as many streams as it takes.

        Where the tenant's rate is met the rest waits, until nothing was taken for the timeout.
        """
        budget, left = self.budget(timeout_s), deque(events)
        while left:
            waiting = len(left)
            await self._reach(budget)
            requests = (PublishManyRequest(event=event) for event in tuple(left))
            call = self._stub.PublishMany(requests, timeout=budget.remaining_s())
            try:
                async for response in call:
                    _raise_transient(response)
                    left.popleft()
                    yield response
                return
            except grpc.RpcError as raised:
                error: LarimarError = calls.to_error(raised, self.target, budget)
            except LarimarError as raised:
                error = raised
            finally:
                call.cancel()
            if isinstance(error, _RateLimited) and len(left) < waiting:
                budget = self.budget(timeout_s)
            pause = budget.pause_s(error)
            if pause is None:
                outcome = budget.outcome(error)
                if not isinstance(outcome, _RateLimited):
                    raise outcome
                for event in left:
                    yield _refused(event, outcome)
                return
            await asyncio.sleep(pause)

    async def _reach(self, budget: calls.Budget) -> None:
        """Waits until something answers, be it with an error; raises Unavailable else."""
        if self._channel is None:
            self._channel = (
                grpc.aio.insecure_channel(self.target, options=calls.CHANNEL_OPTIONS)
                if self.credentials is None
                else grpc.aio.secure_channel(self.target, self.credentials, calls.CHANNEL_OPTIONS)
            )
            self._stub = _KeyedStub(self._channel, self.security.metadata)
        if self.reached:
            return
        knock = self._channel.unary_unary(HEALTH_CHECK)
        timeout = min(self.connect_timeout_s, budget.remaining_s())
        try:
            await knock(b"", wait_for_ready=True, timeout=timeout)
        except grpc.RpcError as raised:
            if raised.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                why = await asyncio.to_thread(why_unreachable, self.target, self.security)
                raise why from None
        self.reached = True

    async def _retry(
        self, attempt: Callable[[calls.Budget], Awaitable[T]], timeout_s: float | None
    ) -> T:
        """The outcome of the first attempt that did not meet UNAVAILABLE."""
        budget = self.budget(timeout_s)
        await self._reach(budget)
        while True:
            try:
                return await attempt(budget)
            except LarimarError as error:
                pause = budget.pause_s(error)
                if pause is None:
                    raise budget.outcome(error) from None
            await asyncio.sleep(pause)

    async def _attempt(
        self, request: AskRequest, budget: calls.Budget
    ) -> AsyncIterator[str | Answer]:
        """One attempt at an answer: its pieces of text, then the whole."""
        call = self._stub.Ask(request, timeout=budget.remaining_s())
        text, last = [], AskResponse()
        try:
            async for last in call:
                if last.text:
                    text.append(last.text)
                    yield last.text
        except grpc.RpcError as raised:
            raise calls.to_error(raised, self.target, budget) from None
        finally:
            call.cancel()
        yield messages.answer("".join(text), last)


async def _one_then_all(requests: Iterator[T], answered: asyncio.Event) -> AsyncIterator[T]:
    """The first request, and once it is answered the others.

    A stream that ends while grpc.aio writes to it ends without the gateway's status;
    so on a stream that takes the place of a broken one the first fact goes alone.
    """
    for request in requests:
        yield request
        await answered.wait()


class _RateLimited(Unavailable):
    """An event met its tenant's rate: it and the rest may be taken in a moment."""


def _raise_transient(response: PublishManyResponse) -> None:
    """Ends a stream at an event that may be taken later, so that it and the rest come again."""
    status = response.status
    if status.reason == "RATE_LIMITED":
        raise _RateLimited(status.message, status.reason)
    if status.code == Unavailable.code:
        raise Unavailable(status.message, status.reason)


def _refused(event: CloudEvent, error: LarimarError) -> PublishManyResponse:
    """The result of an event for which the rate left no room in time."""
    status = Status(code=ResourceExhausted.code, reason=error.reason, message=error.message)
    return PublishManyResponse(status=status, result=PublishResponse(id=event.id))
