"""The whole pipeline in this process: real services over a `MemoryLog`, behind any door."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import torch

from larimar.checkpoint import ModelFolder
from larimar.decoder import Decoder
from larimar.encoder import Encoder
from larimar.scope import ScopeDetector, SentenceEmbedder
from services.build import SERVICES
from services.contracts import add_servicer, channel_stub
from services.decoder.service import DecoderService
from services.encoder.service import EncoderService
from services.follower import Follower
from services.gateway.service import GatewayService
from services.log import Log, MemoryLog
from services.memory.service import MemoryService
from services.rpc import ObjectStub, start_server
from services.scope.service import ScopeService

STATE_BUDGET = 1 << 30
_NUMBERS = itertools.count()


def new_bank_name() -> str:
    """A name that no other test has taken."""
    return f"bank-{next(_NUMBERS)}"


@dataclass(frozen=True)
class Weights:
    """A model folder and what is loaded of it, once for all tests."""

    folder: ModelFolder
    encoder: Encoder
    embedder: SentenceEmbedder
    decoder: Decoder
    dtype: torch.dtype


class Pipeline:
    """The four services behind the gateway, each with a follower of its own, over one log."""

    def __init__(self, weights: Weights, log: Log | None = None) -> None:
        config = weights.folder.config
        self.weights = weights
        self.log = log or MemoryLog()
        self.follower = Follower(self.log, ("memory", "scope"), STATE_BUDGET)
        self.servicers: dict[str, Any] = {
            "encoder": EncoderService(weights.folder, weights.encoder),
            "scope": ScopeService(
                weights.embedder,
                Follower(self.log, ("scope",), STATE_BUDGET),
                ScopeDetector.open(weights.folder, weights.embedder),
                config.fixed_point.scope_bits,
            ),
            "memory": MemoryService(self.log, self.follower),
            "decoder": DecoderService(weights.folder, weights.decoder),
        }
        self.doors = {name: ObjectStub(self.servicers[name]) for name in SERVICES}

    def gateway(self, tenant: str = "default", **other_doors: Any) -> ObjectStub:
        """The door to a gateway over these services, some of them behind another door."""
        return ObjectStub(GatewayService(**self.doors | other_doors, tenant=tenant))


class Door:
    """Another service's door with something done to some of its calls.

    Args:
        changed: by method, a coroutine function of the request and the door's own method.
    """

    def __init__(self, door: Any, **changed: Any) -> None:
        self._door = door
        self._changed = changed

    def __getattr__(self, method: str) -> Any:
        call = getattr(self._door, method)
        changed = self._changed.get(method)
        return call if changed is None else lambda request: changed(request, call)


@contextlib.asynccontextmanager
async def served(name: str, servicer: Any) -> AsyncIterator[str]:
    """The address of a service behind a socket, in this loop."""
    server, port = await start_server("127.0.0.1:0", add_servicer(name, servicer))
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(grace=0)


class Gate:
    """Holds what runs on an executor until it is opened; knows when something waits at it."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._open = threading.Event()

    def __call__(self) -> None:
        self._reached.set()
        assert self._open.wait(timeout=180)

    async def reached(self) -> None:
        """Returns when something waits."""
        assert await asyncio.to_thread(self._reached.wait, 180)

    def open(self) -> None:
        """Lets everything through from now on."""
        self._open.set()


class ServedPipeline:
    """A pipeline and its gateway's socket, in a thread with a loop of its own, until closed.

    Args:
        doors: "objects", or "channels" for a socket before each service too.
        log: shared with another pipeline; None for one of its own.
    """

    def __init__(self, weights: Weights, doors: str, log: MemoryLog | None = None) -> None:
        self._weights = weights
        self._log = log
        self._doors = doors
        self._port: Future[int] = Future()
        self._stop: asyncio.Event
        self._loop: asyncio.AbstractEventLoop
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        self.target = f"127.0.0.1:{self._port.result(timeout=120)}"

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        servers = []

        async def listen(name: str, servicer: Any) -> int:
            server, port = await start_server("127.0.0.1:0", add_servicer(name, servicer))
            servers.append(server)
            return port

        try:
            pipeline = Pipeline(self._weights, self._log)
            doors = pipeline.doors
            if self._doors == "channels":
                doors = {
                    name: channel_stub(name, f"127.0.0.1:{await listen(name, servicer)}")
                    for name, servicer in pipeline.servicers.items()
                }
            self._port.set_result(await listen("gateway", GatewayService(**doors)))
        except BaseException as error:
            self._port.set_exception(error)
            raise
        await self._stop.wait()
        for server in reversed(servers):
            await server.stop(grace=0)

    def __enter__(self) -> ServedPipeline:
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=120)
