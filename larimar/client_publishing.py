"""Publishing from a client: edit events and dead letters, blocking and awaited."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from larimar.defaults import DEFAULT_BANK
from larimar.edit_events import from_json, is_transient
from larimar.errors import InvalidArgument, LarimarError, from_code
from larimar.transport import AsyncConnection, Connection
from larimar.v1 import larimar_pb2 as pb

GROUP_EVENTS = 256
"""Events of one stream: after a lost connection no more than these are sent again."""
PAGE_LETTERS = 50
"""Dead letters of a page: with 64 KiB each they fit a message."""


@dataclass(frozen=True, slots=True)
class Published:
    """An event that is an edit now; durable."""

    id: str
    bank: str
    fact_id: str
    version: int
    duplicate: bool
    """Whether the event had been taken before."""


@dataclass(frozen=True, slots=True)
class FailedPublish:
    """An event that was refused; the others are taken."""

    id: str
    error: LarimarError


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event of the inbox that could not be applied."""

    letter_id: str
    event: bytes
    """As it came, cut to 64 KiB; empty when it concerned an erased fact."""
    reason: str
    message: str
    tries: int
    time_ms: int
    inbox_id: str


def _envelope(event: Mapping[str, Any] | bytes) -> pb.CloudEvent:
    raw = event if isinstance(event, bytes) else json.dumps(event, ensure_ascii=False).encode()
    return from_json(raw)


def _published(response: pb.PublishResponse) -> Published:
    return Published(
        response.id, response.bank, response.fact_id, response.version, response.duplicate
    )


def _result(response: pb.PublishManyResponse) -> Published | FailedPublish:
    status = response.status
    if not status.code:
        return _published(response.result)
    return FailedPublish(response.result.id, from_code(status.code, status.message, status.reason))


def _groups(events: Iterable[Mapping[str, Any] | bytes]) -> Iterator[list[pb.CloudEvent]]:
    """Events in groups. Raises: InvalidArgument, behind the group of those before a bad one."""
    group: list[pb.CloudEvent] = []
    for event in events:
        try:
            group.append(_envelope(event))
        except InvalidArgument:
            yield group
            raise
        if len(group) == GROUP_EVENTS:
            yield group
            group = []
    yield group


class _InOrder:
    """Keeps a bank's events in order over streams: after a transient error none follows."""

    def __init__(self) -> None:
        self._stopped: dict[str, LarimarError] = {}

    def errors(self, group: Sequence[pb.CloudEvent]) -> list[LarimarError | None]:
        """For each event the error of the one that it may not pass; None where it may be sent."""
        return [self._stopped.get(_bank(event)) for event in group]

    def result(
        self, event: pb.CloudEvent, response: pb.PublishManyResponse
    ) -> Published | FailedPublish:
        """What became of an event that was sent."""
        found = _result(response)
        if isinstance(found, FailedPublish) and is_transient(found.error):
            self._stopped.setdefault(_bank(event), found.error)
        return found


def _bank(event: pb.CloudEvent) -> str:
    return event.subject or DEFAULT_BANK


def _letters(response: pb.ListDeadLettersResponse) -> list[DeadLetter]:
    return [
        DeadLetter(
            one.letter_id, one.event, one.reason, one.message, one.tries, one.time_ms, one.inbox_id
        )
        for one in response.letters
    ]


class PublishingMethods:
    """The calls of `Client` about events."""

    _connection: Connection

    def publish(
        self, event: Mapping[str, Any] | bytes, *, timeout_s: float | None = None
    ) -> Published:
        """Takes one edit event, a CloudEvent in JSON format; its id is the idempotency key.

        Raises:
            InvalidArgument: BAD_EVENT, saying what is wrong.
        """
        envelope = _envelope(event)
        request = pb.PublishRequest(event=envelope)
        return _published(self._connection.call("Publish", request, timeout_s, envelope.id))

    def publish_many(
        self, events: Iterable[Mapping[str, Any] | bytes], *, timeout_s: float | None = None
    ) -> Iterator[Published | FailedPublish]:
        """Takes edit events; a result for each, in order. The timeout is that of 256 events.

        Where the tenant's rate is met they wait, until none was taken for the timeout. After an
        event that met a fault of the pipeline, or for which the rate left no room in that time, no
        later one of its bank is taken: all of them have its error; send them again from there.

        Raises:
            InvalidArgument: an event is no CloudEvent; those before it are taken.
        """
        order = _InOrder()
        for group in _groups(events):
            errors = order.errors(group)
            sent = [event for event, error in zip(group, errors, strict=True) if error is None]
            responses = self._connection.publish_group(sent, timeout_s)
            for event, error in zip(group, errors, strict=True):
                if error is None:
                    yield order.result(event, next(responses))
                else:
                    yield FailedPublish(event.id, error)

    def dead_letters(self, *, timeout_s: float | None = None) -> Iterator[DeadLetter]:
        """Events of the inbox that could not be applied, oldest first."""
        after = ""
        while True:
            request = pb.ListDeadLettersRequest(after=after, page_size=PAGE_LETTERS)
            page = self._connection.call("ListDeadLetters", request, timeout_s)
            yield from _letters(page)
            after = page.next_after
            if not after:
                return

    def requeue_dead_letters(
        self, letter_ids: Sequence[str], *, timeout_s: float | None = None
    ) -> int:
        """Puts dead letters back at the end of the inbox; how many. Those without a text stay."""
        request = pb.RequeueDeadLettersRequest(letter_ids=letter_ids)
        return self._connection.call("RequeueDeadLetters", request, timeout_s).requeued

    def drop_dead_letters(
        self, letter_ids: Sequence[str], *, timeout_s: float | None = None
    ) -> int:
        """Throws dead letters away; how many there were."""
        request = pb.DropDeadLettersRequest(letter_ids=letter_ids)
        return self._connection.call("DropDeadLetters", request, timeout_s).dropped


class AsyncPublishingMethods:
    """The same, awaited."""

    _connection: AsyncConnection

    async def publish(
        self, event: Mapping[str, Any] | bytes, *, timeout_s: float | None = None
    ) -> Published:
        """See `Client.publish`."""
        envelope = _envelope(event)
        request = pb.PublishRequest(event=envelope)
        return _published(await self._connection.call("Publish", request, timeout_s, envelope.id))

    async def publish_many(
        self, events: Iterable[Mapping[str, Any] | bytes], *, timeout_s: float | None = None
    ) -> AsyncIterator[Published | FailedPublish]:
        """See `Client.publish_many`."""
        order = _InOrder()
        for group in _groups(events):
            errors = order.errors(group)
            sent = [event for event, error in zip(group, errors, strict=True) if error is None]
            responses = self._connection.publish_group(sent, timeout_s)
            for event, error in zip(group, errors, strict=True):
                if error is None:
                    yield order.result(event, await anext(responses))
                else:
                    yield FailedPublish(event.id, error)

    async def dead_letters(self, *, timeout_s: float | None = None) -> AsyncIterator[DeadLetter]:
        """See `Client.dead_letters`."""
        after = ""
        while True:
            request = pb.ListDeadLettersRequest(after=after, page_size=PAGE_LETTERS)
            page = await self._connection.call("ListDeadLetters", request, timeout_s)
            for letter in _letters(page):
                yield letter
            after = page.next_after
            if not after:
                return

    async def requeue_dead_letters(
        self, letter_ids: Sequence[str], *, timeout_s: float | None = None
    ) -> int:
        """See `Client.requeue_dead_letters`."""
        request = pb.RequeueDeadLettersRequest(letter_ids=letter_ids)
        return (await self._connection.call("RequeueDeadLetters", request, timeout_s)).requeued

    async def drop_dead_letters(
        self, letter_ids: Sequence[str], *, timeout_s: float | None = None
    ) -> int:
        """See `Client.drop_dead_letters`."""
        request = pb.DropDeadLettersRequest(letter_ids=letter_ids)
        return (await self._connection.call("DropDeadLetters", request, timeout_s)).dropped
