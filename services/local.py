"""The processes of a pipeline: under Ray one that holds the cluster, without Ray one a service."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
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


def _kept_port() -> socket.socket:
    """A free port of this machine, which only processes that share it can listen on."""
    keeper = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    keeper.bind(("127.0.0.1", 0))
    return keeper


@dataclass
class _Held:
    name: str
    module: tuple[str, ...]
    address: str
    keeper: socket.socket | None = None
    """Bound, and never listening: the port stays the pipeline's while no process has it."""
    process: subprocess.Popen | None = None
    failures: int = 0


def _service(name: str) -> _Held:
    keeper = _kept_port()
    return _Held(name, ("services.run", name), f"127.0.0.1:{keeper.getsockname()[1]}", keeper)


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
        self._swapping = threading.Lock()
        public = f"{settings.host}:{settings.port}"
        if use_ray:
            self._groups = [[_Held("ray", ("services.app",), public)]]
        else:
            behind = [_service(name) for name in SERVICES]
            self._groups = [behind, [_Held("gateway", ("services.run", "gateway"), public)]]

    def start(self) -> None:
        """Starts every process. Raises: Unavailable, naming the one that did not start."""
        shutil.rmtree(self._settings.metrics_folder, ignore_errors=True)
        self._settings.metrics_folder.mkdir(parents=True)
        for group in self._groups:
            for held in group:
                held.process = self._spawn(held, self._settings)
            for held in group:
                self._await(held, held.process)
        self._supervisor = threading.Thread(target=self._supervise, daemon=True)
        self._supervisor.start()

    @property
    def pids(self) -> dict[str, int]:
        """Process of each name."""
        return {held.name: held.process.pid for held in self._all() if held.process}

    def redeploy(self, settings: Settings) -> None:
        """Serves by other settings: each process or replica is replaced by one that is ready.

        Only a thread that lasts as long as this process may call it: a child ends with the thread
        that started it.

        Raises:
            Unavailable: a new one did not start; the settings are those of before.
        """
        if self._groups[0][0].name == "ray":
            self._tell(self._groups[0][0], settings)
        else:
            replaced = []
            try:
                for held in self._all():
                    self._replace(held, settings)
                    replaced.append(held)
            except Unavailable:
                for held in replaced:
                    self._replace(held, self._settings)
                raise
        self._settings = settings

    def _replace(self, held: _Held, settings: Settings) -> None:
        """Starts a process beside the one that serves, on its port, then ends that one."""
        successor = self._spawn(held, settings)
        self._await(held, successor)
        with self._swapping:
            process, held.process = held.process, successor
        if process is not None:
            process.terminate()
            _wait(process)

    def _tell(self, held: _Held, settings: Settings) -> None:
        """Has the process with the Ray cluster replace every replica."""
        process = held.process
        assert process is not None and process.stdin is not None and process.stdout is not None
        try:
            _send(process, {"settings": settings.to_json()})
            line = process.stdout.readline()
        except OSError as error:
            raise Unavailable(f"{held.name} does not listen: {error}", "SERVICE_DOWN") from None
        answer = json.loads(line or '{"error": "it ended"}')
        if answer.get("error"):
            raise Unavailable(f"nothing was changed: {answer['error']}", "SERVICE_DOWN")

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
            _wait(process)
        for pid in below:  # Ray's agents take minutes to notice that their raylet is gone
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        end_strays(self._settings.data_dir)
        for held in self._all():
            if held.keeper is not None:
                held.keeper.close()

    def _all(self) -> list[_Held]:
        return [held for group in self._groups for held in group]

    def _spawn(self, held: _Held, settings: Settings) -> subprocess.Popen:
        peers = {}
        if held.name == "gateway":
            peers = {peer.name: peer.address for peer in self._groups[0]}
        process = subprocess.Popen(
            [sys.executable, "-m", *held.module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=CHECKOUT,
            env=self._environment,
            text=True,
        )
        _send(process, {"settings": settings.to_json(), "address": held.address, "peers": peers})
        return process

    def _await(self, held: _Held, process: subprocess.Popen | None) -> None:
        assert process is not None and process.stdout is not None
        timer = threading.Timer(START_TIMEOUT_S, process.kill)
        timer.start()
        line = process.stdout.readline()
        timer.cancel()
        if not line:
            process.wait()
            raise Unavailable(f"{held.name} did not start: see the lines above", "SERVICE_DOWN")
        port = json.loads(line)["port"]
        self._say(f"{held.name} listens on port {port} (pid {process.pid})")

    def _supervise(self) -> None:
        while not self._stopping.wait(RESTART_PAUSE_S):
            for held in self._all():
                with self._swapping:
                    self._restart_ended(held)

    def _restart_ended(self, held: _Held) -> None:
        if self._stopping.is_set() or held.process is None or held.process.poll() is None:
            return
        self._say(f"{held.name} ended with code {held.process.returncode}: restarting it")
        try:
            if held.name == "ray":  # whose children may outlive it
                end_strays(self._settings.data_dir)
            held.process = self._spawn(held, self._settings)
            self._await(held, held.process)
            held.failures = 0
        except (Unavailable, OSError, ValueError) as error:
            held.failures += 1
            self._say(f"{held.name}: {error}")
            pause_s = min(MAX_RESTART_PAUSE_S, RESTART_PAUSE_S * 2**held.failures)
            self._stopping.wait(pause_s)


def _wait(process: subprocess.Popen) -> None:
    """Waits until a process that was told to end has ended; kills it when its time is over."""
    try:
        process.wait(timeout=STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _send(process: subprocess.Popen, job: dict) -> None:
    """A line on the standard input of a process."""
    assert process.stdin is not None
    process.stdin.write(json.dumps(job) + "\n")
    process.stdin.flush()
