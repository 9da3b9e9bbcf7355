"""What Prometheus scrapes."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response

from services.observability.scrape import CONTENT_TYPE, exposition

router = APIRouter(tags=["operation"])


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Counters and times of all processes of this machine, in Prometheus' text format.

    Whoever asks within a second of another is given the same.
    """
    state: Any = request.app.state
    text = await state.scraped.of(lambda: _exposition(state.service))
    return Response(text, media_type=CONTENT_TYPE)


async def _exposition(service: Any) -> bytes:
    condition: Any = getattr(service, "condition", None)
    if condition is None:
        return await asyncio.to_thread(exposition)
    return await condition.exposition()
