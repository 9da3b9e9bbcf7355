"""A world in one process: simulated time, a network that fails, replicas that crash and pause.

The services in it are the real ones; only the networks' work (encoder, sentence embedder, decoder)
is done by doubles that cost nothing and always say the same. Everything random is drawn from one
seed, so that a run is repeated exactly.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import selectors
import sys
import time
import types
import uuid
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from larimar.errors import Unavailable
from larimar.scope import ScopeDetector
from services import memory_bank
from services.follower import Follower
from services.gateway.service import GatewayService
from services.log import MemoryLog
from services.memory import erasure
from services.memory import service as memory_service
from services.memory.service import MemoryService
from services.rpc import ObjectStub
from services.scope.service import ScopeService
from tests.simulated_models import DecoderDouble, EmbedderDouble, EncoderDouble

EPOCH_S = 1_700_000_000.0
"""The wall clock when a run begins."""
THRESHOLD = 0.999
"""Cosine from which a prompt is in scope: only the very prompt that was written reaches it."""
CHECKPOINT_EVERY = 4
WARM_EVERY_S = 0.5
STATE_BUDGET = 1 << 24


class _Selector(selectors.SelectSelector):
    """Never waits: the loop's clock is put forward instead."""

    def __init__(self) -> None:
        super().__init__()
        self.waited: Callable[[float], None] = lambda seconds: None

    def select(self, timeout: float | None = None) -> list:
        if timeout is None:
            raise RuntimeError("the simulation stands still: nothing is due any more")
        self.waited(max(timeout, 0.0))
        return []


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only when nothing is left to do, and then at once.

    What goes to an executor runs in place, so that nothing runs beside the loop.
    """

    def __init__(self) -> None:
        selector = _Selector()
        super().__init__(selector)
        self._now = 0.0
        selector.waited = self._wait

    def _wait(self, seconds: float) -> None:
        self._now += seconds

    def time(self) -> float:
        """Simulated seconds since the run began."""
        return self._now

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        """Runs the function now; its result is there on the next turn of the loop."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future


class Clock:
    """Takes the place of the module `time` in the services."""

    def monotonic(self) -> float:
        """Seconds of the loop."""
        return asyncio.get_running_loop().time()

    def time(self) -> float:
        """Seconds since 1970."""
        return EPOCH_S + self.monotonic()

    def time_ns(self) -> int:
        """Nanoseconds since 1970."""
        return int(self.time() * 10**9)

    def sleep(self, seconds: float) -> None:
        """Returns at once."""


@contextlib.contextmanager
def simulated(rng: random.Random) -> Iterator[None]:
    """Gives the services simulated time, and salts and ids out of the seed."""
    clock, ids = Clock(), types.SimpleNamespace(uuid4=lambda: uuid.UUID(int=rng.getrandbits(128)))
    with contextlib.ExitStack() as stack:
        for name, module in sorted(sys.modules.items()):
            if name.startswith("services.") and getattr(module, "time", None) is time:
                stack.enter_context(mock.patch.object(module, "time", clock))
        for module in (erasure, memory_service):
            stack.enter_context(mock.patch.object(module, "uuid", ids))
        salts = types.SimpleNamespace(urandom=rng.randbytes)
        stack.enter_context(mock.patch.object(memory_bank, "os", salts))
        yield


class World:
    """Two memory and two scope replicas behind a gateway, over one log.

    Attributes:
        rng: what all that is random is drawn from.
        log: the log itself, without faults.
        faulty: whether messages may be lost, late or doubled from now on.
        store_down: whether the store answers nobody.
    """

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.log = MemoryLog()
        self.faulty = True
        self.store_down = False
        self.messages = 0
        self._trace = hashlib.sha256()
        self._tail: list[str] = []
        self._late: list[asyncio.Task] = []
        self.memory = [Replica(self, f"memory {n}", _memory) for n in range(2)]
        self.scope = [Replica(self, f"scope {n}", _scope) for n in range(2)]
        self.gateway = ObjectStub(
            GatewayService(
                encoder=ObjectStub(EncoderDouble()),
                scope=Network(self, self.scope),
                memory=Network(self, self.memory),
                decoder=ObjectStub(DecoderDouble()),
            )
        )

    @property
    def replicas(self) -> list[Replica]:
        """All of them."""
        return [*self.memory, *self.scope]

    @property
    def trace(self) -> str:
        """SHA-256 of all that has happened."""
        return self._trace.hexdigest()

    @property
    def last_events(self) -> str:
        """The last of what has happened."""
        return "\n".join(self._tail[-30:])

    def note(self, what: str) -> None:
        """Adds to what has happened."""
        line = f"{asyncio.get_running_loop().time():.6f} {what}"
        self.messages += 1
        self._trace.update(line.encode() + b"\n")
        self._tail.append(line)
        del self._tail[:-60]

    def chance(self, share: float) -> bool:
        """Whether a fault of this probability happens."""
        return self.faulty and self.rng.random() < share

    async def travel(self) -> None:
        """The time of a message on its way: mostly short, now and then long."""
        long = self.chance(0.04)
        await asyncio.sleep(self.rng.uniform(0.1, 1.5) if long else self.rng.uniform(1e-4, 4e-3))

    def later(self, work: Any) -> None:
        """Something that goes on by itself."""
        self._late.append(asyncio.ensure_future(work))

    async def close(self) -> None:
        """Ends all that runs."""
        for task in self._late:
            task.cancel()
        await asyncio.gather(*self._late, return_exceptions=True)
        for replica in self.replicas:
            await replica.stop()


class Replica:
    """A process that may crash with all it holds, or stand still for a while.

    Attributes:
        servicer: the service that runs in it.
        follower: that service's follower.
    """

    def __init__(
        self, world: World, name: str, build: Callable[[Any], tuple[Any, Follower]]
    ) -> None:
        self._world = world
        self.name = name
        self._build = build
        self._calls: list[asyncio.Task] = []
        self._going: asyncio.Event | None = None
        self.up = True
        self._start()

    def _start(self) -> None:
        self._port = FaultyLog(self._world, self)
        self.servicer, self.follower = self._build(self._port)

    async def crash(self, down_s: float) -> None:
        """Loses all that runs and is held, and starts anew after a while."""
        self._world.note(f"{self.name} crashes")
        self.up = False
        await self.stop()
        await asyncio.sleep(down_s)
        self._start()
        self.up = True
        self._world.note(f"{self.name} is back")

    async def pause(self, seconds: float) -> None:
        """Stands still, in the middle of whatever it does, and goes on as if nothing was."""
        self._world.note(f"{self.name} stands still")
        going = self._going = asyncio.Event()
        await asyncio.sleep(seconds)
        self._going = None
        going.set()

    async def going(self) -> None:
        """Returns when the process does not stand still."""
        while self._going is not None:
            await self._going.wait()

    async def stop(self) -> None:
        """Ends all that runs in the process."""
        self._port.dead = True
        calls, self._calls = self._calls, []
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await self.follower.close()
        eraser = getattr(self.servicer, "_eraser", None)
        if eraser is not None:
            await eraser.close()

    def _ended(self, task: asyncio.Task) -> None:
        if task in self._calls:
            self._calls.remove(task)
        if not task.cancelled():
            task.exception()  # seen, whether or not a caller still waits for it

    async def call(self, method: str, request: Any) -> Any:
        """A call that has arrived; it goes on when its caller goes away."""
        await self.going()
        if not self.up:
            raise _down()
        task = asyncio.ensure_future(getattr(self.servicer, method)(request, grpc_context=None))
        self._calls.append(task)
        task.add_done_callback(self._ended)
        await asyncio.wait({task})
        await self.going()
        if task.cancelled():
            raise _down()
        return task.result()


class Network:
    """The door to one of several replicas; messages are lost, late, or arrive twice."""

    def __init__(self, world: World, replicas: list[Replica]) -> None:
        self._world = world
        self._replicas = replicas

    def __getattr__(self, method: str) -> Callable[[Any], Any]:
        return lambda request: self._call(method, request)

    async def _call(self, method: str, request: Any) -> Any:
        world, raw = self._world, request.SerializeToString()
        replica = world.rng.choice(self._replicas)

        def arrived() -> Any:
            return type(request).FromString(raw)

        await world.travel()
        if world.chance(0.02):
            world.note(f"{method} to {replica.name} is lost")
            raise _down()
        if world.chance(0.03):
            world.later(self._again(method, arrived()))
        reply = await replica.call(method, arrived())
        await world.travel()
        if world.chance(0.02):
            world.note(f"the reply of {replica.name} to {method} is lost")
            raise _down()
        return reply

    async def _again(self, method: str, request: Any) -> None:
        """The same message once more, later, and to any replica."""
        await asyncio.sleep(self._world.rng.uniform(0.0, 3.0))
        self._world.note(f"{method} arrives again")
        with contextlib.suppress(Exception):
            await self._world.rng.choice(self._replicas).call(method, request)


class FaultyLog:
    """A replica's way to the store."""

    def __init__(self, world: World, replica: Replica) -> None:
        self._world = world
        self._replica = replica
        self.dead = False

    def __getattr__(self, method: str) -> Callable[..., Any]:
        async def call(*args: Any, **settings: Any) -> Any:
            return await self._call(method, *args, **settings)

        return call

    async def _call(self, method: str, *args: Any, **settings: Any) -> Any:
        world = self._world
        await world.travel()
        await self._replica.going()
        if self.dead or world.store_down or world.chance(0.01):
            raise _no_store()
        reply = await getattr(world.log, method)(*args, **settings)
        world.note(f"{self._replica.name} {method}")
        if method in ("append", "erase") and world.chance(0.05):
            reply = await getattr(world.log, method)(*args, **settings)
        await world.travel()
        await self._replica.going()
        if world.chance(0.01):
            world.note(f"the store's reply to {method} is lost")
            raise _no_store()
        return reply


def _memory(port: Any) -> tuple[MemoryService, Follower]:
    follower = Follower(port, ("memory",), STATE_BUDGET, CHECKPOINT_EVERY, WARM_EVERY_S)
    return MemoryService(port, follower), follower


def _scope(port: Any) -> tuple[ScopeService, Follower]:
    follower = Follower(port, ("scope",), STATE_BUDGET, CHECKPOINT_EVERY, WARM_EVERY_S)
    embedder: Any = EmbedderDouble()
    return ScopeService(embedder, follower, ScopeDetector(THRESHOLD), 16), follower


def _down() -> Unavailable:
    return Unavailable("the service does not answer: retry", "SERVICE_DOWN")


def _no_store() -> Unavailable:
    return Unavailable("the store does not answer", "STORE_DOWN")
