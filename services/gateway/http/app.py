"""The HTTP interface of a gateway: one application, made of routers."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from larimar import __version__
from larimar.errors import LarimarError
from services.gateway.auth import KeyGate
from services.gateway.http import banks, cloud_events, completions, facts, health, letters, metrics
from services.gateway.http.console import mount_console
from services.gateway.http.door import KEY, Door
from services.gateway.http.errors import error_response, http_error
from services.gateway.http.observing import ObservedHttp
from services.gateway.http.recent import Recent
from services.gateway.http.routes import METHOD_FIELD
from services.gateway.mcp import McpEndpoint
from services.keys import Keys
from services.settings import Settings

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
DESCRIPTION = "Knowledge that can be edited in a serving language model."
ROUTERS = (facts, banks, letters, completions, cloud_events, health, metrics)


def build_app(service: Any, keys: Keys | None, settings: Settings) -> FastAPI:
    """The application that answers for a gateway.

    Args:
        service: shaped like the servicer of larimar.v1.Larimar.
        keys: the API keys that calls need; None asks for none.
    """
    endpoint = McpEndpoint(service, KEY)
    app = FastAPI(
        title="Larimar",
        lifespan=lambda _: endpoint.running(),
        version=__version__,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.service = service
    app.state.status, app.state.scraped = Recent(), Recent()
    for module in ROUTERS:
        app.include_router(module.router)
    # No GET: a stream that nothing is ever sent on would hold one of the port's calls.
    app.router.routes.append(Route("/mcp", endpoint, methods=["POST"]))
    for kind in (LarimarError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, _answer)
    mount_console(app)
    app.add_middleware(Door, gate=None if keys is None else KeyGate(keys), settings=settings)
    app.add_middleware(ObservedHttp)
    if keys is not None:
        _declare_keys(app)
    return app


async def _answer(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, HTTPException) and error.status_code == 405:
        error = HTTPException(405, headers={"Allow": ", ".join(_methods_at(request))})
    return error_response(http_error(error), getattr(error, "headers", None))


def _methods_at(request: Request) -> list[str]:
    """The methods that some route takes at the path of a request."""
    return [
        method
        for method in METHODS
        if any(
            route.matches({**request.scope, "method": method})[0] == Match.FULL
            for route in request.app.routes
        )
    ]


def _declare_keys(app: FastAPI) -> None:
    """Says in the OpenAPI document which operations need a key."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = made()
            document.setdefault("components", {})["securitySchemes"] = {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            }
            for path in document["paths"].values():
                for operation in path.values():
                    if METHOD_FIELD in operation:
                        operation["security"] = [{"bearer": []}, {"header": []}]
        return app.openapi_schema or {}

    app.openapi = openapi
