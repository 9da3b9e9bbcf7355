"""Wires that lose or delay what they carry, and processes that can be killed or paused."""

from __future__ import annotations

import asyncio
import contextlib
import json
import select
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.store import EmbeddedStore
from tests.command_line import ROOT
from tests.faults import PATIENCE_S


class Wire:
    """A socket before the store's that loses answers or holds questions back, when told to.

    Attributes:
        path: where to connect.
        cut: answers that followed a script call and were lost.
    """

    def __init__(self, store: EmbeddedStore) -> None:
        self.path = store.data_dir / "wire.sock"
        self.url = f"unix://{self.path}"
        self.cut = 0
        self._target = str(store.socket_path)
        self._cut_in = 0
        self._flow = asyncio.Event()
        self._flow.set()
        self._held = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task] = set()

    def cut_next(self, after: int = 0) -> None:
        """The next script call, or one after that, is done, and its answer never arrives."""
        self._cut_in = after + 1

    def hold(self) -> None:
        """Keeps every question from the store until `flow`."""
        self._held.clear()
        self._flow.clear()

    async def held(self) -> None:
        """Returns when a question is being kept."""
        await asyncio.wait_for(self._held.wait(), PATIENCE_S)

    def flow(self) -> None:
        """Lets everything through again, late."""
        self._flow.set()

    async def __aenter__(self) -> Wire:
        self._server = await asyncio.start_unix_server(self._serve, self.path)
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        from_store, to_store = await asyncio.open_unix_connection(self._target)
        wire = _Connection()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._ask(reader, to_store, wire))
                group.create_task(self._answer(from_store, writer, wire))
        except* (ConnectionError, _Closed):
            pass
        finally:
            to_store.close()
            writer.close()

    async def _ask(self, reader: asyncio.StreamReader, to_store: Any, wire: _Connection) -> None:
        while data := await reader.read(65536):
            if not self._flow.is_set():
                self._held.set()
                await self._flow.wait()
            if self._cut_in and b"EVALSHA\r\n" in data:
                self._cut_in -= 1
                wire.cuts = wire.cuts or not self._cut_in
            to_store.write(data)
            await to_store.drain()
        raise _Closed

    async def _answer(self, from_store: Any, writer: Any, wire: _Connection) -> None:
        while data := await from_store.read(65536):
            if wire.cuts:
                self.cut += 1
                raise _Closed
            writer.write(data)
            await writer.drain()
        raise _Closed


@dataclass
class _Connection:
    cuts: bool = False


class _Closed(Exception):
    pass


class Worker:
    """A process with a node of its own (tests/fault_worker.py), driven line by line."""

    def __init__(self, url: str, *, shift_s: float = 0.0, ledger: Path | None = None) -> None:
        arguments = [url, str(shift_s), str(ledger or "")]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fault_worker", *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def send(self, command: str, **arguments: Any) -> None:
        """Tells it what to do."""
        assert self.process.stdin is not None
        line = json.dumps({"command": command, **arguments}) + "\n"
        self.process.stdin.write(line.encode())
        self.process.stdin.flush()

    def receive(self, timeout_s: float = PATIENCE_S) -> dict[str, Any] | None:
        """Its next answer; None when it has ended."""
        stream = self.process.stdout
        assert stream is not None
        assert select.select([stream], [], [], timeout_s)[0], "the worker does not answer"
        line = stream.readline()
        return json.loads(line) if line.endswith(b"\n") else None

    def call(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Tells and receives."""
        self.send(command, **arguments)
        answer = self.receive()
        assert answer is not None, "the worker has ended"
        return answer

    def dies_of(self, command: str, **arguments: Any) -> None:
        """Tells, and sees it end."""
        self.send(command, **arguments)
        assert self.receive() is None, "the worker goes on"

    def signal(self, number: int) -> None:
        """Sends it a signal."""
        self.process.send_signal(number)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(BrokenPipeError):
                if stream is not None:
                    stream.close()
