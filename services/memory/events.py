"""Events and facts of the memory service on the wire."""

from __future__ import annotations

from larimar.memory import Event, Kind, Payload
from larimar.v1 import common_pb2

KINDS = {
    common_pb2.EVENT_KIND_WRITE: Kind.WRITE,
    common_pb2.EVENT_KIND_FORGET: Kind.FORGET,
    common_pb2.EVENT_KIND_ERASE: Kind.ERASE,
}
KIND_NUMBERS = {kind: number for number, kind in KINDS.items()}


def event_to_proto(event: Event, erased: bool = False) -> common_pb2.Event:
    """An entry of the log as a message; `erased`: it counts for nothing any more."""
    return common_pb2.Event(
        version=event.version,
        kind=KIND_NUMBERS[Kind(event.kind)],
        fact_id=event.fact_id,
        event_id=event.event_id,
        time_ms=event.time_ms,
        payload_sha256=event.payload_sha256,
        chain=event.chain,
        previous_version=event.previous,
        erased=erased,
    )


def fact_to_proto(payload: Payload, version: int) -> common_pb2.Fact:
    """A live fact as a message."""
    return common_pb2.Fact(
        fact_id=payload.fact_id,
        prompt=payload.prompt,
        answer=payload.answer,
        rephrasings=payload.rephrasings,
        version=version,
    )
