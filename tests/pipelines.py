"""Pipelines as users start them: `larimar up`, a tree of processes of its own, and its end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tests.command_line import command, environment, free_port

UP_TIMEOUT_S = 420.0
GONE_TIMEOUT_S = 120.0


def larimar(*args: str, **env: str) -> subprocess.CompletedProcess:
    """A `larimar` command, its output as text."""
    return command(*args, env=environment(**env), text=True, timeout=UP_TIMEOUT_S)


def _processes() -> dict[int, tuple[int, str]]:
    """Parent and state of every process of this machine."""
    table = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid=,stat="], check=True, capture_output=True, text=True
    )
    rows = (line.split() for line in table.stdout.splitlines())
    return {int(pid): (int(parent), state) for pid, parent, state in rows}


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    _, state = _processes().get(pid, (0, "Z"))
    return not state.startswith("Z")


def family(pid: int) -> list[int]:
    """A process and all that descend from it, parents first."""
    children: dict[int, list[int]] = {}
    for child, (parent, _) in _processes().items():
        children.setdefault(parent, []).append(child)
    found = [pid]
    for member in found:
        found.extend(children.get(member, []))
    return found


def wait_gone(pids: Iterable[int], timeout_s: float = GONE_TIMEOUT_S) -> None:
    """Waits until none of the processes runs, or the time is over."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and any(map(alive, pids)):
        time.sleep(0.1)


def wait_until(holds: Callable[[], object], timeout_s: float = 180.0) -> None:
    """Waits until a condition holds; an assertion of its own may still fail until then."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if holds():
                return
        except AssertionError:
            if time.monotonic() > deadline:
                raise
        assert time.monotonic() < deadline
        time.sleep(0.1)


class RunningPipeline:
    """A pipeline that `larimar up --detach` started, and that can be started again."""

    def __init__(self, data_dir: Path, options: tuple[str, ...], env: dict[str, str]) -> None:
        self.data_dir = data_dir
        self.port, self.http_port = free_port(), free_port()
        self.target = f"127.0.0.1:{self.port}"
        self.http = f"http://127.0.0.1:{self.http_port}"
        self._options = options
        self._env = env

    def up(self) -> None:
        """Starts it; returns when it answers."""
        where = ["--data-dir", str(self.data_dir), "--port", str(self.port)]
        where += ["--http-port", str(self.http_port)]
        done = larimar("up", "--detach", *where, *self._options, **self._env)
        assert done.returncode == 0, done.stderr

    def down(self) -> None:
        """Stops it in order."""
        done = larimar("down", "--data-dir", str(self.data_dir))
        assert done.returncode == 0, done.stderr

    def facts(self) -> dict:
        """What up.json says: pid, port, store_pid ..."""
        return json.loads((self.data_dir / "up.json").read_text())

    def tree(self) -> list[int]:
        """All its processes."""
        return family(self.facts()["pid"])

    def kill_tree(self) -> None:
        """SIGKILL for all its processes, as when the machine goes down."""
        pids = self.tree()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_gone(pids)


@contextlib.contextmanager
def pipeline(data_dir: Path, *options: str, **env: str) -> Iterator[RunningPipeline]:
    """A pipeline that is up; every process of it is gone afterwards, whatever happened."""
    running = RunningPipeline(data_dir, options, env)
    running.up()
    try:
        yield running
    finally:
        pids = running.tree() if (data_dir / "up.json").exists() else []
        larimar("down", "--data-dir", str(data_dir))
        wait_gone(pids)
        for pid in filter(alive, pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
