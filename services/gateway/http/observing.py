"""Requests over HTTP as they are observed: counted, timed, and part of their caller's trace."""

from __future__ import annotations

import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.observability import traces
from services.observability.metrics import HTTP_RESPONSES, HTTP_SECONDS

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""Names that the metrics have for methods; a caller may send any word."""
QUIET = frozenset({"/healthz", "/readyz", "/metrics"})
"""What probes ask all the time: no trace begins with it."""
OTHER = "other"
"""What the metrics call a path that is no route's, whatever was asked for."""


class ObservedHttp:
    """Observes the requests of an application."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hands the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        headers = Headers(scope=scope)
        caller = headers.get("traceparent", ""), headers.get("tracestate", "")
        method = scope["method"] if scope["method"] in METHODS else OTHER
        started = time.monotonic()
        with traces.serving(f"{method} HTTP", *caller, begins=scope["path"] not in QUIET) as span:
            try:
                await self._app(scope, receive, sending)
            finally:
                route = getattr(scope.get("route"), "path", OTHER)
                HTTP_SECONDS.labels(method, route).observe(time.monotonic() - started)
                HTTP_RESPONSES.labels(method, route, status).inc()
                if span is not None:
                    span.update_name(f"{method} {route}")
                    span.set_attribute("http.response.status_code", status)
