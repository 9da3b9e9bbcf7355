"""The socket of the HTTP interface, in the event loop of the gateway."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from larimar.errors import FailedPrecondition, Unavailable
from services.gateway.http.door import MAX_HEADER_BYTES
from services.settings import Settings

MAX_CONNECTIONS = 1024
"""Connections at once, idle ones too; one more is refused."""
IDLE_S = 75
"""Time that an idle connection is kept: above the minute after which clients and proxies let go.
Idle is one whose next request has not begun with a whole head, and one that takes no more of its
answer."""
DRAIN_S = 10
"""Time that calls in progress have when the gateway stops; streams of events end at once."""


class _Connection(H11Protocol):
    """A connection that ends after IDLE_S, whatever its caller leaves undone.

    uvicorn begins to count only with the end of a response, and stops with the first byte after it.
    """

    _stuck: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins to wait for the first request."""
        super().connection_made(transport)
        # What is not taken is told at once. Not 0, at which a transport of TLS never writes.
        transport.set_write_buffer_limits(high=1, low=0)
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def data_received(self, data: bytes) -> None:
        """Takes bytes; only a request, whose head is whole, ends the wait for it."""
        self.conn.receive_data(data)
        self.handle_events()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the waits too."""
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self._moved()

    def pause_writing(self) -> None:
        """Begins to wait until the caller takes what was written."""
        super().pause_writing()
        self._look(None)

    def resume_writing(self) -> None:
        """Ends that wait."""
        super().resume_writing()
        self._moved()

    def _look(self, left: int | None) -> None:
        """Looks again as long as less is left to be taken each time; else the connection ends."""
        size = self.transport.get_write_buffer_size()
        if left is not None and size >= left:
            self.transport.abort()
            return
        self._moved()
        self._stuck = self.loop.call_later(self.timeout_keep_alive, self._look, size)

    def _moved(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None


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
                http=_Connection,  # h11's, which bounds what it holds of half a request
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
