"""The processes of a pipeline: under Ray one that holds the cluster, without Ray one a service."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from larimar.errors import Unavailable
from services.build import SERVICES
from services.settings import CHECKOUT, Settings

START_TIMEOUT_S = 180.0
"""Time a process has to load its weights and listen."""
STOP_TIMEOUT_S = 15.0
"""Time a process has to end before it is killed."""
RESTART_PAUSE_S = 0.2
"""Time between two looks at whether a process is alive."""
MAX_RESTART_PAUSE_S = 10.0
MARK = "LARIMAR_PIPELINE"
"""Environment variable that names the data directory of the pipeline a process belongs to."""
STRAY_ROUNDS = 25


def descendants(pid: int) -> list[int]:
    """Every process that descends from one (Linux)."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.name))
    found = list(children.get(pid, []))
    for member in found:
        found.extend(children.get(member, []))
    return found


def strays(data_dir: str) -> list[int]:
    """Processes that some pipeline of a data directory started and that still run (Linux).

    They carry our mark in their environment, but for Ray's agents, which write their title over it.
    """
    mark = f"{MARK}={data_dir}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


def end_strays(data_dir: str) -> int:
    """Kills the strays of a data directory whose pipeline has ended; returns how many."""
    ended = 0
    for _ in range(STRAY_ROUNDS):
        pids = strays(data_dir)
        if not pids:
            break
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                ended += 1
        time.sleep(RESTART_PAUSE_S)
    return ended


@dataclass
class _Held:
    name: str
    module: tuple[str, ...]
    address: str
    process: subprocess.Popen | None = None
    port: int = 0
    failures: int = 0


class Pipeline:
    """Starts the processes of a pipeline and restarts those that die.

    Args:
        use_ray: one process with a Ray cluster, or one process a service.
        environment: of the processes.
        say: told what happens, a line at a time.
    """

    def __init__(
        self,
        settings: Settings,
        use_ray: bool,
        environment: dict[str, str],
        say: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._environment = {**environment, MARK: settings.data_dir}
        self._say = say
        self._stopping = threading.Event()
        self._supervisor: threading.Thread | None = None
        public = f"{settings.host}:{settings.port}"
        if use_ray:
            self._groups = [[_Held("ray", ("services.app",), public)]]
        else:
            behind = [_Held(name, ("services.run", name), "127.0.0.1:0") for name in SERVICES]
            self._groups = [behind, [_Held("gateway", ("services.run", "gateway"), public)]]

    def start(self) -> None:
        """Starts every process. Raises: Unavailable, naming the one that did not start."""
        shutil.rmtree(self._settings.metrics_folder, ignore_errors=True)
        self._settings.metrics_folder.mkdir(parents=True)
        for group in self._groups:
            for held in group:
                self._spawn(held)
            for held in group:
                self._await(held)
        self._supervisor = threading.Thread(target=self._supervise, daemon=True)
        self._supervisor.start()

    @property
    def pids(self) -> dict[str, int]:
        """Process of each name."""
        return {held.name: held.process.pid for held in self._all() if held.process}

    def kick(self) -> None:
        """Kills the process that holds the public port, for the supervisor to start it again."""
        process = self._groups[-1][-1].process
        if process is not None:
            process.kill()

    def stop(self) -> None:
        """Ends all processes."""
        self._stopping.set()
        processes = [held.process for held in self._all() if held.process]
        below = [pid for process in processes for pid in descendants(process.pid)]
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(timeout=STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for pid in below:  # Ray's agents take minutes to notice that their raylet is gone
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        end_strays(self._settings.data_dir)

    def _all(self) -> list[_Held]:
        return [held for group in self._groups for held in group]

    def _spawn(self, held: _Held) -> None:
        address = held.address
        if held.port:  # again at the port that the others know
            address = f"{held.address.rsplit(':', 1)[0]}:{held.port}"
        peers = {}
        if held.name == "gateway":
            peers = {peer.name: f"127.0.0.1:{peer.port}" for peer in self._groups[0]}
        job = {"settings": self._settings.to_json(), "address": address, "peers": peers}
        held.process = subprocess.Popen(
            [sys.executable, "-m", *held.module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=CHECKOUT,
            env=self._environment,
            text=True,
        )
        assert held.process.stdin is not None
        held.process.stdin.write(json.dumps(job) + "\n")
        held.process.stdin.flush()

    def _await(self, held: _Held) -> None:
        process = held.process
        assert process is not None and process.stdout is not None
        timer = threading.Timer(START_TIMEOUT_S, process.kill)
        timer.start()
        line = process.stdout.readline()
        timer.cancel()
        if not line:
            process.wait()
            raise Unavailable(f"{held.name} did not start: see the lines above", "SERVICE_DOWN")
        held.port = json.loads(line)["port"]
        self._say(f"{held.name} listens on port {held.port} (pid {process.pid})")

    def _supervise(self) -> None:
        while not self._stopping.wait(RESTART_PAUSE_S):
            for held in self._all():
                if self._stopping.is_set() or held.process is None or held.process.poll() is None:
                    continue
                self._say(f"{held.name} ended with code {held.process.returncode}: restarting it")
                try:
                    if held.name == "ray":  # whose children may outlive it
                        end_strays(self._settings.data_dir)
                    self._spawn(held)
                    self._await(held)
                    held.failures = 0
                except (Unavailable, OSError, ValueError) as error:
                    held.failures += 1
                    self._say(f"{held.name}: {error}")
                    pause_s = min(MAX_RESTART_PAUSE_S, RESTART_PAUSE_S * 2**held.failures)
                    self._stopping.wait(pause_s)
