"""Server-sent events: the messages of a streaming call, kept alive and ended with their reader."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from services.gateway.http.errors import error_body, http_error
from services.gateway.http.routes import gone

KEEP_ALIVE_S = 15.0
"""Silence after which a comment is sent: proxies cut connections that say nothing for a minute."""
MEDIA_TYPE = "text/event-stream"
STREAM = {
    200: {
        "content": {
            MEDIA_TYPE: {
                "schema": {
                    "type": "object",
                    "description": "One event of the stream.",
                    "required": ["data"],
                    "properties": {
                        "data": {"type": "string", "contentMediaType": "application/json"},
                        "id": {"type": "string"},
                        "event": {"type": "string"},
                    },
                }
            }
        }
    }
}
"""What the declaration of a route says that may answer with server-sent events."""


def event(data: Any, event_id: str = "", name: str = "") -> str:
    """One event; `data` is JSON in ASCII: other line breaks than our own, some readers' too, are
    written as escapes."""
    head = f"event: {name}\n" if name else ""
    head += f"id: {event_id}\n" if event_id else ""
    return head + raw_event(json.dumps(data))


def raw_event(text: str) -> str:
    """One event of a text without line breaks."""
    return f"data: {text}\n\n"


class EventStream(Response):
    """A response that sends events as they come.

    Args:
        events: made by `event`; what it raises is sent as a last event, `error`.
    """

    media_type = MEDIA_TYPE

    def __init__(self, events: AsyncGenerator[str, None]) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._coming: asyncio.Task[str | None] = _next(events)

    async def begun(self, patience_s: float | None = None) -> EventStream:
        """This, when the first event is there: what is raised before it is an error of the call.

        Args:
            patience_s: how long the first event is waited for; None waits for it.

        Raises: what the events raise.
        """
        try:
            done, _ = await asyncio.wait({self._coming}, timeout=patience_s)
            if done:
                self._coming.result()
        except BaseException:
            await self._end()
            raise
        return self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends until the events end or their reader is gone."""
        tasks = [asyncio.create_task(self._send(send)), asyncio.create_task(gone(receive))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._end()

    async def _send(self, send: Send) -> None:
        head = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(head)
        async for text in self._texts():
            await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _texts(self) -> AsyncIterator[str]:
        while True:
            done, _ = await asyncio.wait({self._coming}, timeout=KEEP_ALIVE_S)
            if not done:
                yield ": there\n\n"
                continue
            try:
                text = self._coming.result()
            except Exception as error:
                yield event(error_body(http_error(error)), name="error")
                return
            if text is None:
                return
            self._coming = _next(self._events)
            yield text

    async def _end(self) -> None:
        """Ends what still works on events."""
        self._coming.cancel()
        await asyncio.gather(self._coming, return_exceptions=True)
        with contextlib.suppress(Exception):
            await self._events.aclose()


def _next(events: AsyncGenerator[str, None]) -> asyncio.Task[str | None]:
    async def following() -> str | None:
        return await anext(events, None)

    return asyncio.create_task(following())
