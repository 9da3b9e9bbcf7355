"""What of the gateway's calls goes into the audit log."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from larimar.v1 import common_pb2, memory_pb2
from services.audit import DUPLICATE, OK, AuditTrail, result_of
from services.gateway.tenancy import current_key

_ACTIONS = {common_pb2.EVENT_KIND_WRITE: "write", common_pb2.EVENT_KIND_FORGET: "forget"}


class Auditor:
    """Writes the lines of a gateway.

    Args:
        trail: where they go.
    """

    def __init__(self, trail: AuditTrail) -> None:
        self.trail = trail

    def edits(
        self,
        tenant: str,
        bank: str,
        items: Sequence[memory_pb2.AppendItem],
        results: Sequence[memory_pb2.AppendResult] | BaseException,
    ) -> None:
        """A line for each event of an append, or of one that failed as a whole."""
        entries = []
        for place, item in enumerate(items):
            if isinstance(results, BaseException):
                version, result = 0, result_of(results)
            else:
                version, result = results[place].version, _result(results[place])
            entries.append(
                {
                    "action": _ACTIONS[item.kind],
                    "bank": bank,
                    "fact_id": item.fact_id,
                    "event_id": item.event_id,
                    "version": version,
                    "result": result,
                }
            )
        self.trail.add(tenant, current_key(), entries)

    @contextlib.asynccontextmanager
    async def recorded(
        self, tenant: str, action: str, **about: Any
    ) -> AsyncIterator[dict[str, Any]]:
        """Writes a line, durably, when the block ends, whichever way; it may add to the line."""
        entry: dict[str, Any] = {"action": action, **about}
        try:
            yield entry
        except BaseException as error:
            entry["result"] = result_of(error)
            self.trail.add(tenant, current_key(), [entry])
            raise
        entry["result"] = OK
        key = current_key()
        await asyncio.to_thread(self.trail.add, tenant, key, [entry], True)


def _result(one: memory_pb2.AppendResult) -> str:
    if one.status.code:
        return one.status.reason
    return DUPLICATE if one.duplicate else OK
