"""Edit events as producers write them, and waiting for what becomes of them."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable
from typing import Any


def event_json(event_id: str, *, kind: str = "write", bank: str = "default", **more: Any) -> bytes:
    """A CloudEvent in JSON; `type` and `specversion` replace the envelope's, the rest is data."""
    envelope = {
        "specversion": more.pop("specversion", "1.0"),
        "id": event_id,
        "source": "/tests",
        "type": more.pop("type", f"io.larimar.edit.{kind}.v1"),
        "subject": bank,
    }
    data = {"answer": "an answer", **more} if kind == "write" else more
    return json.dumps({**envelope, "data": data}).encode()


async def eventually(check: Callable[[], Any], timeout_s: float = 120.0) -> None:
    """Waits until a condition, awaited where it must be, holds."""
    async with asyncio.timeout(timeout_s):
        while True:
            found = check()
            if await found if inspect.isawaitable(found) else found:
                return
            await asyncio.sleep(0.01)
