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
    """Counters and times of all processes of this machine, in Prometheus' text format."""
    condition: Any = getattr(request.app.state.service, "condition", None)
    if condition is None:
        text = await asyncio.to_thread(exposition)
    else:
        text = await condition.exposition()
    return Response(text, media_type=CONTENT_TYPE)
