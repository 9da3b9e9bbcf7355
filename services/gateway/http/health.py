"""Whether the process lives, and whether every service behind it answers: for probes."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel

from larimar.errors import Unavailable
from larimar.v1 import larimar_pb2
from services.gateway.http.errors import ErrorBody

router = APIRouter(tags=["operation"])


class Health(BaseModel):
    """An answer to a probe."""

    status: str


@router.get("/healthz")
async def healthz() -> Health:
    """The process answers."""
    return Health(status="ok")


@router.get("/readyz", responses={503: {"model": ErrorBody, "description": "Who does not."}})
async def readyz(request: Request) -> Health:
    """Every service answers, by a look a second old at most; else 503, naming those that do not."""
    state: Any = request.app.state
    found = await state.status.of(
        lambda: state.service.GetStatus(larimar_pb2.GetStatusRequest(), None)
    )
    missing = [one.name for one in found.services if not one.ready]
    if missing:
        raise Unavailable(f"not ready: {', '.join(missing)}", "NOT_READY")
    return Health(status="ready")
