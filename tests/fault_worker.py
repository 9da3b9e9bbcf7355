"""A process with a node of its own: `python -m tests.fault_worker URL SHIFT_S LEDGER`.

Reads a JSON command a line and answers with a JSON object a line, in order. SHIFT_S sets its clock
forward or back. An `erase` may end the process by SIGKILL at a step or at a call to the log; a
`checkpoints` never ends by itself.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from larimar.errors import LarimarError
from tests.faults import B, Node, T, forget, write

DONE_POLL_S = 0.01
SMALL_PART = 256
"""Bytes of a part of a checkpoint: one takes so many calls that a kill finds it half done."""


class Deadly:
    """A log that counts the calls made to it, and ends the process at one of them."""

    def __init__(self, log: Any) -> None:
        self._log = log
        self.calls = 0
        self.die_at = 0
        self.after = False

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._log, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            dies = self.calls == self.die_at
            if dies and not self.after:
                die()
            answer = await method(*args, **kwargs)
            if dies:
                die()
            return answer

        return call


class Commands:
    """What the process does."""

    def __init__(self, url: str, ledger: Path | None) -> None:
        self.node = Node(url, ledger, part_bytes=SMALL_PART)
        self.die_at_step = 0
        self.deadly = self.node.log = self.node.follower.log = Deadly(self.node.log)
        self.eraser = self.node.eraser(self.on_step)

    async def on_step(self, receipt: Any) -> None:
        """Dies here, when it is told to."""
        if receipt.step == self.die_at_step:
            die()

    async def append(self, edits: list[list[str]]) -> dict[str, Any]:
        """WRITEs ["W", event id, fact id] and FORGETs ["F", event id, fact id]."""
        items = [
            write(event_id, fact_id) if kind == "W" else forget(event_id, fact_id)
            for kind, event_id, fact_id in edits
        ]
        results = await self.node.log.append(T, B, items)
        return {
            "results": [
                [one.version, one.duplicate, one.error.reason if one.error else ""]
                for one in results
            ]
        }

    async def state(self) -> dict[str, Any]:
        """What this process serves just now."""
        async with self.node.follower.state(T, B) as state:
            return {"version": state.version, "digest": state.digest(), "facts": len(state)}

    async def checkpoints(self) -> dict[str, Any]:
        """Saves checkpoints until it is killed; says so once the first is there."""
        first = True
        while True:
            await self.node.follower.save_checkpoint(T, B)
            await self.node.scope.save_checkpoint(T, B)
            if first:
                say({"saved": True})
            first = False

    async def erase(
        self,
        fact_ids: list[str],
        event_id: str,
        die_at_step: int = 0,
        die_at_call: int = 0,
        after: bool = False,
    ) -> dict[str, Any]:
        """Erases facts, to the end; says how many calls to the log it took.

        Args:
            die_at_step: dies when this step is reached.
            die_at_call: dies at this call to the log: before it, or `after` it was carried out.
        """
        self.die_at_step = die_at_step
        self.deadly.calls, self.deadly.die_at, self.deadly.after = 0, die_at_call, after
        await self.eraser.erase(T, B, fact_ids, event_id)
        while True:
            jobs = self.eraser._running
            if not jobs:
                break
            await asyncio.sleep(DONE_POLL_S)
        calls = self.deadly.calls
        receipt = await self.eraser.receipt(T, B, event_id)
        return {"step": receipt.step, "failure": receipt.failure, "calls": calls}


def die() -> None:
    """Ends this process as kill -9 does."""
    os.kill(os.getpid(), signal.SIGKILL)


def say(answer: dict[str, Any]) -> None:
    """One line to whoever drives this process."""
    print(json.dumps(answer), flush=True)


async def main(url: str, ledger: Path | None) -> None:
    """Serves until standard input ends."""
    commands = Commands(url, ledger)
    while line := await asyncio.to_thread(sys.stdin.readline):
        arguments = json.loads(line)
        command = getattr(commands, arguments.pop("command"))
        try:
            say(await command(**arguments))
        except LarimarError as error:
            say({"error": type(error).__name__, "reason": error.reason})


if __name__ == "__main__":
    shift_s, real_time, real_time_ns = float(sys.argv[2]), time.time, time.time_ns
    time.time = lambda: real_time() + shift_s
    time.time_ns = lambda: real_time_ns() + round(shift_s * 1e9)
    asyncio.run(main(sys.argv[1], Path(sys.argv[3]) if sys.argv[3] else None))
