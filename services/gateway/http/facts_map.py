"""The map of a bank's facts: for the console, and no part of the OpenAPI document."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from services.gateway.http.bodies import BankPath, Body, Text, Version
from services.gateway.http.rendering import plain
from services.gateway.http.routes import METHOD_FIELD, Call, CallRoute
from services.gateway.maps import FactsMap, MapRequest

router = APIRouter(prefix="/v1/banks/{bank}", route_class=CallRoute, include_in_schema=False)


class MapBody(Body):
    """What to place among the facts, and as of which version."""

    query: Text | None = None
    at_version: Version = 0


@router.post("/map", openapi_extra={METHOD_FIELD: "ListFacts"})
async def map_facts(bank: BankPath, body: MapBody, call: Call) -> Response:
    """Facts with their places, and the query's; in a POST, so that no log has the query."""
    request = MapRequest(bank, body.query or "", body.at_version)
    found: FactsMap = await call.reply("map_facts", request)
    return JSONResponse(
        {
            "bank": found.bank,
            "version": found.version,
            "total": found.total,
            "facts": [
                {**plain(one.fact), "x": one.x, "y": one.y, "similarity": one.similarity}
                for one in found.facts
            ],
            "query": found.query,
        }
    )
