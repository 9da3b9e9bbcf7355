"""The web console: files built from console_src/, served at / without a key.

The page holds no data: what it shows it fetches from /v1 with the key that its user gives.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import FileResponse, Response
from fastapi.staticfiles import StaticFiles

from services.gateway.http import facts_map

FOLDER = Path(__file__).parent / "console"
SECURITY = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
}
"""Headers of every file: nothing from elsewhere, nothing inline, in nobody's frame."""
ASKED_AGAIN = "no-cache"
"""Of the page: its name stays while its content changes."""
KEPT = "public, max-age=31536000, immutable"
"""Of assets: their names hold a hash of their content."""


class _Assets(StaticFiles):
    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers.update({**SECURITY, "cache-control": KEPT})
        return response


def mount_console(app: FastAPI) -> None:
    """Adds the console to an application: /, /favicon.svg and /assets, and what it alone calls."""

    def page() -> FileResponse:
        return FileResponse(
            FOLDER / "index.html", headers={**SECURITY, "cache-control": ASKED_AGAIN}
        )

    def icon() -> FileResponse:
        return FileResponse(
            FOLDER / "favicon.svg", headers={**SECURITY, "cache-control": ASKED_AGAIN}
        )

    app.include_router(facts_map.router)
    for path, endpoint in (("/", page), ("/favicon.svg", icon)):
        app.add_api_route(path, endpoint, methods=["GET", "HEAD"], include_in_schema=False)
    app.mount("/assets", _Assets(directory=FOLDER / "assets"), name="console")
