"""The books of `write_many`: which facts are sent, acknowledged, refused, to be sent again.

Facts go out in groups of at most `MAX_IN_FLIGHT`, one stream a group. A stream that
breaks is opened again with the facts that have no result yet, under their event
ids, so that nothing is written twice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from larimar import calls, messages
from larimar.errors import DeadlineExceeded, InvalidArgument, LarimarError, Unavailable, from_code
from larimar.results import Edit, FailedWrite
from larimar.v1 import larimar_pb2


@dataclass(frozen=True, slots=True)
class Item:
    """One fact on its way: a request to send, or why it cannot be sent."""

    index: int
    request: larimar_pb2.WriteRequest
    own_event_id: bool
    refused: LarimarError | None = None

    def failed(self, error: LarimarError) -> FailedWrite:
        """The result of this fact when it was not acknowledged."""
        return FailedWrite(
            index=self.index,
            fact_id=self.request.fact_id,
            event_id=self.request.event_id,
            bank=self.request.bank,
            error=error,
        )


def prepare(index: int, fact: Any, bank: str, encoder_digest: str | None) -> Item:
    """An item from what the caller gave; one that is malformed is refused, not raised."""
    try:
        request = messages.write_request_of(fact, bank, encoder_digest)
    except InvalidArgument as error:
        return Item(index, larimar_pb2.WriteRequest(), own_event_id=True, refused=error)
    given = fact.get("event_id") if isinstance(fact, Mapping) else getattr(fact, "event_id", None)
    return Item(index, request, own_event_id=not given)


class Group:
    """Facts that are in flight together, in order, until each has its result."""

    def __init__(self, items: Iterable[Item], target: str, budget: calls.Budget) -> None:
        self._items = deque(items)
        self._target = target
        self._progressed = False
        self.budget = budget

    def __bool__(self) -> bool:
        return bool(self._items)

    def requests(self) -> Iterator[larimar_pb2.WriteManyRequest]:
        """What has to be sent, on a new stream."""
        self._progressed = False
        to_send = [item.request for item in self._items if item.refused is None]
        return (larimar_pb2.WriteManyRequest(write=request) for request in to_send)

    def refused(self) -> Iterator[FailedWrite]:
        """Results of the facts whose turn it is and that could not be sent."""
        while self._items and (error := self._items[0].refused) is not None:
            yield self._items.popleft().failed(error)

    def settle(self, response: larimar_pb2.WriteManyResponse) -> Edit | FailedWrite:
        """The result of the next fact.

        Raises:
            Unavailable: the fact was not written because something is down; it stays
                in the group.
            LarimarError: the response belongs to no fact that was sent.
        """
        status, result = response.status, response.result
        if status.code == Unavailable.code:
            raise from_code(status.code, status.message, status.reason)
        if not self._items or result.event_id not in ("", self._items[0].request.event_id):
            raise LarimarError(f"{self._target} answered facts that were not sent, or in disorder")
        self._progressed = True
        item = self._items.popleft()
        if status.code:
            return item.failed(from_code(status.code, status.message, status.reason))
        return messages.edit(result, item.own_event_id)

    def cut_short(self) -> LarimarError:
        """The error of a stream that ended well, and before its time."""
        return LarimarError(f"{self._target} gave no result for {len(self._items)} facts")

    def pause_s(self, error: LarimarError) -> float | None:
        """Seconds to wait before the rest is sent again; None when it is not.

        The time of a group counts from its last result: a slow stream is no error.
        """
        if self._progressed:
            self.budget = calls.Budget(self.budget.timeout_s)
            if isinstance(error, DeadlineExceeded):
                return 0.0
        return self.budget.pause_s(error)

    def give_up(self, error: LarimarError) -> Iterator[FailedWrite]:
        """Results of the facts whose outcome stays unknown, so that they can be retried."""
        while self._items and error.retry_safe:
            item = self._items.popleft()
            yield item.failed(item.refused or error)
