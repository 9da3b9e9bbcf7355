"""The socket of the HTTP interface, in the event loop of the gateway."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import uvicorn

from larimar.errors import FailedPrecondition, Unavailable
from services.gateway.http.door import MAX_HEADER_BYTES
from services.settings import Settings

MAX_CONNECTIONS = 1024
"""Connections at once, idle ones too; one more is refused."""
IDLE_S = 75
"""Time that an idle connection is kept: above the minute after which clients and proxies let go."""
DRAIN_S = 10
"""Time that calls in progress have when the gateway stops; streams of events end at once."""


class _Server(uvicorn.Server):
    """A server that leaves the signals of its process to those who started it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpServer:
    """An application that listens; started and stopped in one event loop."""

    def __init__(self, app: Any, settings: Settings) -> None:
        self._server = _Server(
            uvicorn.Config(
                app,
                http="h11",  # which bounds what it holds of a request that is not whole
                ws="none",
                lifespan="on",
                loop="none",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=MAX_CONNECTIONS,
                timeout_keep_alive=IDLE_S,
                timeout_graceful_shutdown=DRAIN_S,
                h11_max_incomplete_event_size=MAX_HEADER_BYTES,
                ssl_certfile=settings.tls_cert or None,
                ssl_keyfile=settings.tls_key or None,
                ssl_ca_certs=settings.tls_client_ca or None,
                ssl_cert_reqs=ssl.CERT_REQUIRED if settings.tls_client_ca else ssl.CERT_NONE,
            )
        )
        self._serving: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int, share_port: bool = False) -> int:
        """Listens; returns the port.

        Args:
            port: 0 takes a free one.
            share_port: lets other servers of this user listen there too, as replicas do.

        Raises:
            Unavailable: PORT_IN_USE.
            FailedPrecondition: BAD_TLS, certificate and key do not fit.
        """
        try:
            self._server.config.load()
        except ssl.SSLError as error:
            raise FailedPrecondition(
                f"the files of TLS cannot be used: {error.reason}", "BAD_TLS"
            ) from None
        listening = _listening(host, port, share_port)
        port = listening.getsockname()[1]
        self._serving = asyncio.create_task(self._server.serve(sockets=[listening]))
        while not self._server.started and not self._serving.done():
            await asyncio.sleep(0.01)
        if self._serving.done():
            self._serving.result()
        return port

    async def stop(self) -> None:
        """Ends it; calls in progress have DRAIN_S."""
        if self._serving is not None:
            self._server.should_exit = True
            await asyncio.wait({self._serving})


def _listening(host: str, port: int, share_port: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if share_port:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        made.bind((host, port))
        made.listen()
    except OSError as error:
        made.close()
        raise Unavailable(
            f"cannot listen on {host}:{port}: is the port in use?", "PORT_IN_USE"
        ) from error
    return made
