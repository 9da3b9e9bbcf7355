"""Censors that name no fact: refused where another live fact has their prompt.

What is refused is still sent to the log, expecting a version that no event has: so an event that
was acknowledged before is answered as before, and nothing else is appended.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from larimar.censoring import fact_has_id, is_among
from larimar.errors import FailedPrecondition
from larimar.v1 import common_pb2, memory_pb2
from services.log_rules import MAX_EVENTS

NO_VERSION = MAX_EVENTS + 1
"""A version that no event of a bank has."""


def held_back(
    items: Sequence[memory_pb2.AppendItem], found: Mapping[int, Collection[str]]
) -> dict[int, FailedPrecondition]:
    """Why censors among the items of an append are refused, by their place; they are marked so.

    Args:
        found: by the place of each censor that named no fact, the live facts of its prompt.
    """
    refused: dict[int, FailedPrecondition] = {}
    for place in sorted(found):
        item, live = items[place], set(found[place])
        for earlier, one in enumerate(items[:place]):
            if earlier in refused:
                continue
            live.discard(one.fact_id)
            if one.kind == common_pb2.EVENT_KIND_WRITE and is_among(
                item.prompt, (one.prompt, *one.rephrasings)
            ):
                live.add(one.fact_id)
        live.discard(item.fact_id)
        if live:
            refused[place] = fact_has_id(min(live))
            item.expected_version = NO_VERSION
    return refused


def explain(
    results: Sequence[memory_pb2.AppendResult], refused: Mapping[int, FailedPrecondition]
) -> None:
    """Puts the reason into the results of items that were held back and are no duplicates."""
    for place, error in refused.items():
        if results[place].status.reason == "FACT_CHANGED":
            results[place].status.CopyFrom(
                common_pb2.Status(code=error.code, reason=error.reason, message=error.message)
            )
