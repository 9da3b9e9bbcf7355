"""The public side of a gateway: its ports with TLS and keys, its private socket, its consumers."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from larimar.errors import FailedPrecondition
from services.contracts import add_servicer
from services.gateway.auth import KeyInterceptor
from services.gateway.consumer import InboxConsumer
from services.keys import Keys
from services.private import probe_socket
from services.rpc import start_server
from services.settings import Settings

if TYPE_CHECKING:
    from services.gateway.http.server import HttpServer

DRAIN_S = 10.0
"""Time that calls in progress have when the gateway stops; watches end at once."""


def server_credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """TLS of the public port; None where the settings name no certificate.

    Raises:
        FailedPrecondition: BAD_TLS, a file is missing, or is no certificate or key of the other.
    """
    if not settings.tls_cert and not settings.tls_key and not settings.tls_client_ca:
        return None
    if not settings.tls_cert or not settings.tls_key:
        raise FailedPrecondition("TLS needs both a certificate and its key", "BAD_TLS")
    key, chain = _read(settings.tls_key), _read(settings.tls_cert)
    authorities = _read(settings.tls_client_ca) if settings.tls_client_ca else None
    return grpc.ssl_server_credentials(
        [(key, chain)],
        root_certificates=authorities,
        require_client_auth=authorities is not None,
    )


def _read(name: str) -> bytes:
    try:
        text = Path(name).read_bytes()
    except OSError as error:
        raise FailedPrecondition(f"cannot read {name}: {error.strerror}", "BAD_TLS") from None
    if b"-----BEGIN " not in text:
        raise FailedPrecondition(f"{name} is no PEM file", "BAD_TLS")
    return text


class Edge:
    """A gateway that listens; started and stopped in one event loop.

    Args:
        gateway: the servicer.
        keys: the API keys that calls on the public ports need; None asks for none.
    """

    def __init__(self, gateway: Any, settings: Settings, keys: Keys | None = None) -> None:
        self._gateway = gateway
        self._settings = settings
        self._keys = keys
        self._servers: list[grpc.aio.Server] = []
        self._tasks: list[asyncio.Task] = []
        self._http: HttpServer | None = None
        self._socket: Path | None = None

    async def start(self, address: str, share_port: bool = False) -> int:
        """Listens, and begins to consume; returns the gRPC port.

        Beside the public ports the gateway listens on a private socket, in plain text and without
        keys, where the supervisor of this machine and user asks how it is.

        Args:
            address: of the gRPC port; the settings say the HTTP port.
            share_port: as of services.rpc.start_server.

        Raises:
            Unavailable: the port is in use.
            FailedPrecondition: the files of TLS are not usable.
        """
        add = add_servicer("gateway", self._gateway)
        interceptors = [KeyInterceptor(self._keys)] if self._keys is not None else []
        server, port = await start_server(
            address, add, server_credentials(self._settings), interceptors, share_port
        )
        self._servers.append(server)
        if self._settings.http_port:
            await self._start_http(share_port)
        self._socket = probe_socket(self._settings.data_dir, os.getpid())
        private, _ = await start_server(f"unix:{self._socket}", add)
        self._servers.append(private)
        for tenant in self._settings.inbox_tenants:
            consumer = InboxConsumer(
                self._gateway, self._gateway.inbox, tenant, self._settings.inbox_max_tries
            )
            self._tasks.append(asyncio.create_task(consumer.run()))
        return port

    async def _start_http(self, share_port: bool) -> None:
        from services.gateway.http.app import build_app
        from services.gateway.http.server import HttpServer

        app = build_app(self._gateway, self._keys, self._settings)
        self._http = HttpServer(app, self._settings)
        self._gateway.http_port = await self._http.start(
            self._settings.host, self._settings.http_port, share_port
        )

    async def stop(self) -> None:
        """Ends consumers and servers; leases are given back."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._gateway.end_watches()
        ending = [server.stop(DRAIN_S) for server in self._servers]
        if self._http is not None:
            ending.append(self._http.stop())
        await asyncio.gather(*ending)
        if self._socket is not None:
            self._socket.unlink(missing_ok=True)
        for held in (self._gateway.inbox, self._keys):
            if held is not None:
                with contextlib.suppress(Exception):
                    await held.close()
