"""Publishing: edit events in CloudEvents envelopes, and the inbox for producers in the cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from larimar.edit_events import EditEvent, is_transient, parse_edit
from larimar.errors import FailedPrecondition, InvalidArgument, LarimarError
from larimar.v1 import larimar_pb2
from services.gateway.applying import (
    BATCH_EVENTS,
    Outcome,
    apply_edits,
    as_status,
    check_edit,
)
from services.gateway.calls import Calls
from services.gateway.tenancy import check_key_again, current_tenant
from services.inbox import MAX_PAGE, Inbox, Letter
from services.observability.traces import consuming

EVENT = "event"
"""Name of the span of what was published in a trace of its own."""
LETTERS_PAGE = 50
"""Dead letters of a page when the caller does not say: 64 KiB each stay below a message's limit."""
MAX_LETTERS_PAGE = 100
"""Most dead letters of a page, for the same reason."""
AHEAD_EVENTS = 2 * BATCH_EVENTS
"""Events of a stream that are read and not yet applied."""


class PublishCalls(Calls):
    """Publish, PublishMany and the dead letters."""

    inbox: Inbox | None = None
    """Where dead letters are; None where the gateway was given no store."""

    async def Publish(self, request, grpc_context):
        """Takes one edit event in a CloudEvents envelope."""
        event = check_edit(parse_edit(request.event))
        with consuming(EVENT, [event.trace]):
            context = self._context(grpc_context)
            (outcome,) = await apply_edits(self, event.bank, [event], lambda: context)
        if isinstance(outcome, LarimarError):
            raise outcome
        return outcome

    async def PublishMany(self, request_iterator, grpc_context) -> AsyncIterator:
        """Takes many edit events; a result streams back for each, in order.

        What comes while a batch is applied forms the next one. After a transient error the bank's
        later events get that error too, so that no event overtakes another.
        """
        queue: asyncio.Queue = asyncio.Queue(AHEAD_EVENTS)
        reader = asyncio.create_task(_read(request_iterator, queue))
        stopped: dict[str, LarimarError] = {}
        try:
            ended = False
            while not ended:
                batch = [await queue.get()]
                while len(batch) < BATCH_EVENTS and not queue.empty():
                    batch.append(queue.get_nowait())
                ended = batch[-1] is None
                events = batch[:-1] if ended else batch
                if events:
                    await check_key_again()
                for response in await self._publish_batch(events, stopped):
                    yield response
            await reader
        finally:
            reader.cancel()

    async def _publish_batch(
        self, batch: list, stopped: dict[str, LarimarError]
    ) -> list[larimar_pb2.PublishManyResponse]:
        outcomes: list[Any] = [None] * len(batch)
        by_bank: dict[str, list[tuple[int, EditEvent]]] = {}
        for place, event in enumerate(batch):
            try:
                edit = check_edit(parse_edit(event))
            except InvalidArgument as error:
                outcomes[place] = error
            else:
                by_bank.setdefault(edit.bank, []).append((place, edit))
        for bank, members in by_bank.items():
            edits = [edit for _, edit in members]
            settled: list[Outcome] = []
            if bank not in stopped:
                with consuming(EVENT, [edit.trace for edit in edits]):
                    settled = await apply_edits(self, bank, edits, lambda: self._context(None))
                last = settled[-1]
                if isinstance(last, LarimarError) and is_transient(last):
                    stopped[bank] = last
            for number, (place, _) in enumerate(members):
                outcomes[place] = settled[number] if number < len(settled) else stopped[bank]
        return [_response(event, one) for event, one in zip(batch, outcomes, strict=True)]

    async def ListDeadLetters(self, request, grpc_context):
        """Events of the inbox that could not be applied."""
        size = min(request.page_size or LETTERS_PAGE, MAX_LETTERS_PAGE)
        if size < 0:
            raise InvalidArgument("page_size must not be negative", "BAD_PAGE")
        tenant = current_tenant(self._tenant)
        self.admission.reads(tenant)
        found, total = await self._inbox().letters(tenant, request.after, size)
        self.admission.owe_page(tenant, len(found))
        return larimar_pb2.ListDeadLettersResponse(
            letters=[_letter(one) for one in found],
            total=total,
            next_after=found[-1].letter_id if len(found) == size else "",
        )

    async def RequeueDeadLetters(self, request, grpc_context):
        """Puts dead letters back into the inbox."""
        tenant, letter_ids = current_tenant(self._tenant), _checked(request.letter_ids)
        async with self.auditor.recorded(tenant, "requeue", letter_ids=letter_ids) as entry:
            moved = entry["letters"] = await self._inbox().requeue(tenant, letter_ids)
        return larimar_pb2.RequeueDeadLettersResponse(requeued=moved)

    async def DropDeadLetters(self, request, grpc_context):
        """Throws dead letters away."""
        tenant, letter_ids = current_tenant(self._tenant), _checked(request.letter_ids)
        async with self.auditor.recorded(tenant, "drop", letter_ids=letter_ids) as entry:
            dropped = entry["letters"] = await self._inbox().drop(tenant, letter_ids)
        return larimar_pb2.DropDeadLettersResponse(dropped=dropped)

    def _inbox(self) -> Inbox:
        if self.inbox is None:
            raise FailedPrecondition(
                "this gateway has no inbox: start the pipeline with `larimar up`", "NO_INBOX"
            )
        return self.inbox


async def _read(requests: AsyncIterator, queue: asyncio.Queue) -> None:
    """Events of a stream, then None; also when the stream breaks, which is told afterwards."""
    broken: Exception | None = None
    try:
        async for request in requests:
            await queue.put(request.event)
    except Exception as error:  # told when what came before it is applied
        broken = error
    await queue.put(None)
    if broken is not None:
        raise broken


def _checked(letter_ids) -> list[str]:
    if len(letter_ids) > MAX_PAGE:
        raise InvalidArgument(
            f"{len(letter_ids)} letters in one call, the limit is {MAX_PAGE}: split it",
            "TOO_MANY_ITEMS",
        )
    return list(letter_ids)


def _response(event, outcome: Outcome) -> larimar_pb2.PublishManyResponse:
    if isinstance(outcome, LarimarError):
        return larimar_pb2.PublishManyResponse(
            status=as_status(outcome),
            result=larimar_pb2.PublishResponse(id=event.id, bank=event.subject),
        )
    return larimar_pb2.PublishManyResponse(result=outcome)


def _letter(letter: Letter) -> larimar_pb2.DeadLetter:
    return larimar_pb2.DeadLetter(
        letter_id=letter.letter_id,
        event=letter.event,
        reason=letter.reason,
        message=letter.message,
        tries=letter.tries,
        time_ms=letter.time_ms,
        inbox_id=letter.entry_id,
    )
