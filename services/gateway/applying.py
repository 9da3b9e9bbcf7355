"""Applying edit events in order: what Publish, PublishMany and the inbox share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from larimar.edit_events import EditEvent, bad_event, concerned_fact, is_transient
from larimar.errors import InvalidArgument, LarimarError, from_code
from larimar.v1 import common_pb2, larimar_pb2, memory_pb2
from services.gateway.calls import named_bank
from services.gateway.requests import prepared_edit
from services.limits import check_id

BATCH_EVENTS = 128
"""Most events that are encoded and appended together."""
BATCH_TEXTS = 256
"""Most prompts and rephrasings of one append: one that is larger is cut."""

Outcome = larimar_pb2.PublishResponse | LarimarError


def check_edit(event: EditEvent) -> EditEvent:
    """The event. Raises: InvalidArgument, BAD_EVENT, when it is past a limit of texts or ids."""
    try:
        named_bank(event.bank)
        check_id("event id", event.event_id)
        if event.kind == "erase":
            check_id("fact id", event.fact_id)
        else:
            _item(event)
    except InvalidArgument as error:
        raise bad_event(error.message) from None
    return event


async def apply_edits(
    gateway: Any, bank: str, events: Sequence[EditEvent], context: Callable[[], Any]
) -> list[Outcome]:
    """Applies checked events of one bank in their order; an outcome for each that was settled.

    Edits that follow one another are appended together. The first event that meets a transient
    error ends the list: it and what came after it may be applied again, in this order.

    Args:
        gateway: has `write_prepared` and `Erase`.
        context: makes the call context of an append.
    """
    outcomes: list[Outcome] = []
    for run in _runs(events):
        if run[0].kind == "erase":
            settled = [await _erase(gateway, bank, run[0])]
        else:
            settled = await _append(gateway, bank, run, context)
        for outcome in settled:
            outcomes.append(outcome)
            if isinstance(outcome, LarimarError) and is_transient(outcome):
                return outcomes
    return outcomes


def _runs(events: Sequence[EditEvent]) -> list[list[EditEvent]]:
    """Edits that are appended together; an erasure is a call of its own."""
    runs: list[list[EditEvent]] = []
    texts = 0
    for event in events:
        size = 1 + len(event.rephrasings)
        joins = (
            runs
            and "erase" not in (event.kind, runs[-1][0].kind)
            and len(runs[-1]) < BATCH_EVENTS
            and texts + size <= BATCH_TEXTS
        )
        if joins:
            runs[-1].append(event)
            texts += size
        else:
            runs.append([event])
            texts = size
    return runs


async def _append(
    gateway: Any, bank: str, run: list[EditEvent], context, admitted: bool = False
) -> list[Outcome]:
    items = [_item(event) for event in run]
    nameless = [
        place for place, event in enumerate(run) if event.kind == "censor" and not event.fact_id
    ]
    try:
        results = await gateway.write_prepared(
            bank, items, context(), admitted=admitted, nameless=nameless
        )
        return [_outcome(bank, event, one) for event, one in zip(run, results, strict=True)]
    except InvalidArgument as error:
        if len(run) == 1:
            return [error]
    except LarimarError as error:
        return [error] * len(run)
    half = len(run) // 2  # one text of the run was refused: find it, append the others
    low = await _append(gateway, bank, run[:half], context, True)
    if isinstance(low[-1], LarimarError) and is_transient(low[-1]):
        return low
    return low + await _append(gateway, bank, run[half:], context, True)


async def _erase(gateway: Any, bank: str, event: EditEvent) -> Outcome:
    request = larimar_pb2.EraseRequest(bank=bank, fact_ids=[event.fact_id], event_id=event.event_id)
    try:
        receipt = (await gateway.Erase(request, None)).receipt
    except LarimarError as error:
        return error
    versions = [max(one.versions, default=0) for one in receipt.banks if one.bank == bank]
    return larimar_pb2.PublishResponse(
        id=event.event_id, bank=bank, fact_id=event.fact_id, version=max(versions, default=0)
    )


def _item(event: EditEvent) -> memory_pb2.AppendItem:
    if event.kind == "forget":
        edit = larimar_pb2.EditItem(
            forget=larimar_pb2.ForgetRequest(fact_id=event.fact_id, event_id=event.event_id)
        )
    elif event.kind == "censor":
        edit = larimar_pb2.EditItem(
            censor=larimar_pb2.CensorRequest(
                prompt=event.prompt,
                rephrasings=event.rephrasings,
                fact_id=event.fact_id,
                event_id=event.event_id,
            )
        )
    else:
        edit = larimar_pb2.EditItem(
            write=larimar_pb2.WriteRequest(
                prompt=event.prompt,
                answer=event.answer,
                rephrasings=event.rephrasings,
                fact_id=event.fact_id,
                event_id=event.event_id,
            )
        )
    return prepared_edit(edit, event.bank)


def _outcome(bank: str, event: EditEvent, result: memory_pb2.AppendResult) -> Outcome:
    if result.status.code:
        return from_code(result.status.code, result.status.message, result.status.reason)
    return larimar_pb2.PublishResponse(
        id=event.event_id,
        bank=bank,
        fact_id=concerned_fact(event),
        version=result.version,
        duplicate=result.duplicate,
    )


def as_status(error: LarimarError) -> common_pb2.Status:
    """An error in a result of its own."""
    return common_pb2.Status(code=error.code, reason=error.reason, message=error.message)
