"""The HTTP interface over real services: a socket in a thread with a loop of its own."""

from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import Future
from typing import Any

import httpx2 as httpx

from services.gateway.http.app import build_app
from services.gateway.http.server import HttpServer
from services.gateway.service import GatewayService
from services.inbox import MemoryInbox
from services.keys import Keys
from services.settings import Settings
from tests.in_process import Pipeline, Weights


class ServedHttp:
    """A pipeline over a log in this process, and its gateway's HTTP port, until closed.

    Attributes:
        url: where it answers.
        gateway: the servicer, for tests that look inside.
    """

    def __init__(
        self, weights: Weights, keys: Keys | None = None, settings: Settings | None = None
    ) -> None:
        self._weights = weights
        self._keys = keys
        self._settings = settings or Settings()
        self._port: Future[int] = Future()
        self._stop: asyncio.Event
        self.loop: asyncio.AbstractEventLoop
        self.gateway: Any = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        scheme = "https" if self._settings.tls_cert else "http"
        self.port = self._port.result(timeout=120)
        self.url = f"{scheme}://127.0.0.1:{self.port}"

    async def _serve(self) -> None:
        self.loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        try:
            self.gateway = GatewayService(**Pipeline(self._weights).doors)
            self.gateway.inbox = MemoryInbox()
            app = build_app(self.gateway, self._keys, self._settings)
            server = HttpServer(app, self._settings)
            self._port.set_result(await server.start("127.0.0.1", 0))
        except BaseException as error:
            self._port.set_exception(error)
            raise
        await self._stop.wait()
        await server.stop()

    def run(self, coroutine: Any) -> Any:
        """What a coroutine gives in the server's loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout=120)

    def __enter__(self) -> ServedHttp:
        return self

    def __exit__(self, *exc: object) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=120)


def events_of(response: httpx.Response) -> list[dict[str, Any]]:
    """The server-sent events of a whole response: id, event, and data as JSON."""
    found: list[dict[str, Any]] = []
    for block in response.text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line[:1] not in ":")
        if fields:
            found.append({**fields, "data": json.loads(fields["data"])})
    return found


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error of a response, which has no other field."""
    body = response.json()
    assert set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}
    return body["error"]
