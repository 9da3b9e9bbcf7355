"""Clients of a load: each asks, writes and forgets as a service would, and keeps its own books."""

from __future__ import annotations

import asyncio
import http.client
import itertools
import json
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import quote, urlencode

import larimar
from benchmarks.texts import UNRELATED
from larimar.errors import BY_CODE, LarimarError, Unavailable

ASKS, WRITES = 0.70, 0.25
"""Shares of the calls; the rest forgets."""
OUT_OF_SCOPE = 0.2
"""Share of the questions that are about none of the facts."""
MAX_TOKENS = 8
TIMEOUT_S = 30.0
"""Of one call."""
PAUSE_S = 0.25
"""Before an edit is sent again that was refused for now, or whose end is unknown."""
SETTLE_S = 60.0
"""Time that an edit in hand has to be settled when the load ends."""
_NAMES = {cls.__name__.upper(): code for code, cls in BY_CODE.items()}


@dataclass(frozen=True, slots=True)
class Sample:
    """One call, as its client saw it."""

    kind: str
    at_s: float
    """When it began, since the load did."""
    seconds: float
    reason: str
    """Of its error; empty when it was answered."""
    code: int
    """gRPC's code of its error; 0 when it was answered."""
    hinted: bool
    """Whether a refusal said that, or when, the call may be made again."""


class Door(Protocol):
    """The three calls of a load, over one protocol."""

    async def ask(self, bank: str, prompt: str, min_version: int) -> None:
        """One answer."""
        ...

    async def write(self, bank: str, fact: dict[str, str]) -> int:
        """The version of a fact that was written: prompt, answer, fact_id, event_id."""
        ...

    async def forget(self, bank: str, fact_id: str, event_id: str) -> int:
        """The version of an event that forgets."""
        ...

    async def close(self) -> None:
        """Ends the connection."""
        ...


class GrpcDoor:
    """The public gRPC port, through the asynchronous client."""

    def __init__(self, target: str) -> None:
        self._client = larimar.connect_async(target, timeout_s=TIMEOUT_S)

    async def ask(self, bank: str, prompt: str, min_version: int) -> None:
        """See Door."""
        await self._client.ask(prompt, bank=bank, max_tokens=MAX_TOKENS, min_version=min_version)

    async def write(self, bank: str, fact: dict[str, str]) -> int:
        """See Door."""
        texts, ids = (fact["prompt"], fact["answer"]), (fact["fact_id"], fact["event_id"])
        edit = await self._client.write(*texts, bank=bank, fact_id=ids[0], event_id=ids[1])
        return edit.version

    async def forget(self, bank: str, fact_id: str, event_id: str) -> int:
        """See Door."""
        return (await self._client.forget(fact_id, bank=bank, event_id=event_id)).version

    async def close(self) -> None:
        """See Door."""
        await self._client.close()


class HttpDoor:
    """The public HTTP port, a connection that is kept."""

    def __init__(self, host: str, port: int) -> None:
        self._connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
        self._thread = ThreadPoolExecutor(1)

    async def ask(self, bank: str, prompt: str, min_version: int) -> None:
        """See Door."""
        body = {"prompt": prompt, "max_tokens": MAX_TOKENS, "min_version": min_version}
        await self._call("POST", f"/v1/banks/{bank}/ask", body)

    async def write(self, bank: str, fact: dict[str, str]) -> int:
        """See Door."""
        return (await self._call("POST", f"/v1/banks/{bank}/facts", fact))["version"]

    async def forget(self, bank: str, fact_id: str, event_id: str) -> int:
        """See Door."""
        query = urlencode({"event_id": event_id})
        path = f"/v1/banks/{bank}/facts/{quote(fact_id)}?{query}"
        return (await self._call("DELETE", path))["version"]

    async def close(self) -> None:
        """See Door."""
        self._connection.close()
        self._thread.shutdown()

    async def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._sent, method, path, body)

    def _sent(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        headers = {"content-type": "application/json"}
        try:
            self._connection.request(method, path, json.dumps(body) if body else None, headers)
            response = self._connection.getresponse()
            answer = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._connection.close()
            raise Unavailable(f"no answer over HTTP: {type(error).__name__}") from None
        if response.status == 200:
            return answer
        raise _http_error(answer["error"], "Retry-After" in response.headers)


def _http_error(shown: dict[str, Any], hinted: bool) -> LarimarError:
    code = _NAMES.get(shown["type"].replace("_", "").upper(), LarimarError.code)
    error = BY_CODE.get(code, LarimarError)(shown["message"], shown["code"])
    error.retry_safe = error.retry_safe and (hinted or error.code not in (8, 14))
    return error


@dataclass
class Books:
    """What the clients of a load saw."""

    started: float = field(default_factory=time.monotonic)
    samples: list[Sample] = field(default_factory=list)
    acknowledged: dict[str, dict[str, int]] = field(default_factory=dict)
    """Bank -> event id -> version."""
    out_of_order: int = 0
    """Edits of one client in one bank whose version is below that of the edit before."""
    unsettled: int = 0
    """Edits that were neither acknowledged nor refused for good when the load was over."""

    async def timed(self, kind: str, call: Callable[[], Any]) -> tuple[Any, LarimarError | None]:
        """What a call came to; it is noted."""
        begun = time.monotonic()
        answer, error = None, None
        try:
            answer = await call()
        except LarimarError as raised:
            error = raised
        took = time.monotonic() - begun
        self.samples.append(
            Sample(
                kind,
                begun - self.started,
                took,
                error.reason if error else "",
                error.code if error else 0,
                bool(error and error.retry_safe),
            )
        )
        return answer, error


class LoadClient:
    """One client: an edit in hand is sent under its event id until it is settled.

    Args:
        facts: what is in the banks already, to ask about.
    """

    def __init__(
        self,
        name: str,
        door: Door,
        banks: list[str],
        facts: list[dict[str, str]],
        books: Books,
        seed: int,
    ) -> None:
        self._name = name
        self._door = door
        self._banks = banks
        self._facts = facts
        self._books = books
        self._rng = random.Random(f"{seed}-{name}")
        self._numbers = itertools.count()
        self._live: dict[str, list[str]] = {bank: [] for bank in banks}
        self._newest: dict[str, int] = dict.fromkeys(banks, 0)
        self._editing = asyncio.Lock()

    async def run(self, stopping: asyncio.Event) -> None:
        """Makes one call after the other until told to stop."""
        while not stopping.is_set():
            await self.step(stopping)
        await self.close()

    async def close(self) -> None:
        """Ends the connection."""
        await self._door.close()

    async def step(self, stopping: asyncio.Event) -> None:
        """Asks, writes or forgets."""
        bank, draw = self._rng.choice(self._banks), self._rng.random()
        if draw < ASKS:
            await self._ask(bank)
            return
        async with self._editing:
            if stopping.is_set():
                return
            if draw < ASKS + WRITES or not self._live[bank]:
                await self._write(bank, stopping)
            else:
                await self._forget(bank, stopping)

    async def _ask(self, bank: str) -> None:
        """At the version of its own newest edit at least: a read that misses it is an error."""
        elsewhere = self._rng.random() < OUT_OF_SCOPE
        prompt = self._rng.choice(UNRELATED if elsewhere else self._facts)
        text = prompt if isinstance(prompt, str) else prompt["prompt"]
        newest = self._newest[bank]
        _, error = await self._books.timed("ask", lambda: self._door.ask(bank, text, newest))
        if error is not None:
            await asyncio.sleep(PAUSE_S * self._rng.uniform(0.5, 1.5))

    async def _write(self, bank: str, stopping: asyncio.Event) -> None:
        name = f"{self._name}-{next(self._numbers)}"
        fact = {
            "prompt": f"The keeper of lighthouse {name} is",
            "answer": "Marlo",
            "fact_id": name,
            "event_id": name,
        }
        if await self._settled("write", bank, name, lambda: self._door.write(bank, fact), stopping):
            self._live[bank].append(name)

    async def _forget(self, bank: str, stopping: asyncio.Event) -> None:
        live = self._live[bank]
        fact_id = live.pop(self._rng.randrange(len(live)))
        name = f"{self._name}-{next(self._numbers)}"
        await self._settled(
            "forget", bank, name, lambda: self._door.forget(bank, fact_id, name), stopping
        )

    async def _settled(
        self,
        kind: str,
        bank: str,
        event_id: str,
        call: Callable[[], Any],
        stopping: asyncio.Event,
    ) -> bool:
        """Sends an edit until it is acknowledged, refused for good, or the load is long over."""
        give_up = None
        while True:
            version, error = await self._books.timed(kind, call)
            if error is None:
                self._books.acknowledged.setdefault(bank, {})[event_id] = version
                self._books.out_of_order += version <= self._newest[bank]
                self._newest[bank] = version
                return True
            if not error.retry_safe and type(error) is not LarimarError:
                return False
            if stopping.is_set():
                give_up = give_up or time.monotonic() + SETTLE_S
                if time.monotonic() > give_up:
                    self._books.unsettled += 1
                    return False
            await asyncio.sleep(PAUSE_S * self._rng.uniform(0.5, 1.5))


async def closed_loop(clients: list[LoadClient], seconds: float) -> None:
    """Every client makes its next call when the one before is answered."""
    stopping = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, stopping.set)
    await asyncio.gather(*(client.run(stopping) for client in clients))


async def open_loop(clients: list[LoadClient], rate: float, seconds: float) -> None:
    """Calls begin at a rate, whether or not earlier ones are answered.

    A client may have several calls at work at once; its edits are still settled one by one.
    """
    stopping, calls = asyncio.Event(), set()
    turns: Iterator[LoadClient] = itertools.cycle(clients)
    begun = time.monotonic()
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, begun + number / rate - time.monotonic()))
        task = asyncio.create_task(next(turns).step(stopping))
        calls.add(task)
        task.add_done_callback(calls.discard)
    await asyncio.sleep(max(0.0, begun + seconds - time.monotonic()))
    stopping.set()
    await asyncio.gather(*calls)
    for client in clients:
        await client.close()
