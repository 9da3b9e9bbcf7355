"""The pipeline as a process of this machine: found, started, watched, stopped."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import larimar
from larimar.errors import Conflict, FailedPrecondition, Unavailable, from_code

UP_FILE = "up.json"
REDEPLOY_FILE = "redeploy.json"
REDEPLOYED_FILE = "redeployed.json"
LOCK_FILE = "lock"
LOG_FILE = "up.log"
# Module that serves; its name in a process's command line tells that a pid is still ours.
UP_MODULE = "services.up"
# Ray and the models start within a minute; a machine that swaps may take several.
START_TIMEOUT_S = 600.0
# Five services, one after the other.
REDEPLOY_TIMEOUT_S = 1200.0
STOP_TIMEOUT_S = 30.0
KILL_TIMEOUT_S = 5.0
POLL_S = 0.1
_LOCAL = ("", "127.0.0.1", "0.0.0.0", "localhost", "::", "[::]")


@dataclass(frozen=True, slots=True)
class Running:
    """A pipeline's process; without a port while it starts."""

    pid: int
    port: int | None
    mode: str = ""
    guarded: bool = False
    """Whether its port asks for TLS or a key: then nobody can look in without."""
    http_port: int = 0
    """0 where it has none."""
    host: str = ""
    """The address that its ports listen on; empty or of all of the machine's: localhost too."""

    @property
    def target(self) -> str:
        """HOST:PORT of its public port, for a caller on this machine."""
        return f"{'localhost' if self.host in _LOCAL else self.host}:{self.port}"


def checkout_root(package: Path | None = None) -> Path:
    """The folder above the package that holds the applications.

    Raises:
        FailedPrecondition: the package is installed without a checkout around it.
    """
    package = package or Path(larimar.__file__).resolve().parent
    if not (package.parent / "services" / "app.py").is_file():
        raise FailedPrecondition(
            f"this command needs a checkout of the project, and {package} is not in one: "
            "clone the project and run it from there",
            "NO_CHECKOUT",
        )
    return package.parent


def checkout_environment(root: Path) -> dict[str, str]:
    """The environment of a child that imports from the checkout first."""
    known = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *([known] if known else [])])}


def find_running(data_dir: Path) -> Running | None:
    """The pipeline of a data directory, when it is alive, whoever started it."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads((data_dir / UP_FILE).read_text(encoding="utf-8"))
        running = Running(
            int(found["pid"]),
            int(found["port"]),
            str(found.get("mode", "")),
            bool(found.get("guarded", False)),
            int(found.get("http_port", 0)),
            str(found.get("host", "")),
        )
        if _is_pipeline(running.pid):
            return running
    with contextlib.suppress(OSError, ValueError):
        holder = re.search(r"\d+", (data_dir / LOCK_FILE).read_text(encoding="utf-8"))
        if holder and _is_pipeline(int(holder[0])):
            return Running(int(holder[0]), None)
    return None


def _is_pipeline(pid: int) -> bool:
    """Whether the process lives and is a pipeline; pids are used again."""
    return UP_MODULE in _command_line(pid)


def _command_line(pid: int) -> str:
    """The command line of a process; empty when it has ended, reaped or not."""
    if not Path("/proc/self").exists():
        listing = ["ps", "-o", "command=", "-p", str(pid)]
        return subprocess.run(listing, capture_output=True, text=True, check=False).stdout
    with contextlib.suppress(OSError):
        for _ in range(20):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
            state = (
                Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
            )
            if words or state in "ZX":
                return words.decode(errors="replace")
            time.sleep(0.005)  # it is between two programs
    return ""


def refuse_second(data_dir: Path) -> None:
    """Raises Conflict when the data directory has a pipeline already; it is not touched."""
    running = find_running(data_dir)
    if running:
        state = f"port {running.port}" if running.port else "still starting"
        raise Conflict(
            f"already up: pid {running.pid}, {state} (data dir {data_dir})", "ALREADY_UP"
        )


def start(command: list[str], root: Path, log: Path | None, detached: bool) -> subprocess.Popen:
    """The child that serves, in a process group of its own.

    Args:
        log: where its output goes; None leaves it on this terminal.
        detached: whether it lives on without this process.
    """
    output = log.open("ab") if log else None
    try:
        return subprocess.Popen(
            [sys.executable, "-m", UP_MODULE, *command],
            cwd=root,
            env=checkout_environment(root),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=detached,
            process_group=None if detached else 0,
        )
    finally:
        if output:
            output.close()


def wait_until_up(
    child: subprocess.Popen,
    data_dir: Path,
    log: Path,
    log_start: int,
    answers: Callable[[str], bool],
    ending: threading.Event,
) -> Running | None:
    """The pipeline, once the child says so and its port `answers`; None when asked to end.

    A guarded port is not asked: the child has asked inside, and this process has no key to it.

    Raises:
        Unavailable: the child ended first; the message is the last line it logged.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    while not ending.wait(POLL_S):
        if child.poll() is not None:
            reason = last_line(log, log_start) or f"it ended with status {child.returncode}"
            raise Unavailable(f"the pipeline did not start: {reason}", "START_FAILED")
        running = find_running(data_dir)
        ours = running is not None and running.pid == child.pid and running.port is not None
        if running and running.port and ours and (running.guarded or answers(running.target)):
            return running
        if time.monotonic() > deadline:
            stop(Running(child.pid, None))
            raise Unavailable(
                f"the pipeline was not up after {START_TIMEOUT_S:.0f} s and was stopped; see {log}",
                "START_FAILED",
            )
    return None


def last_line(log: Path, start: int) -> str:
    """The last line of a log past an offset, without its prefix."""
    with log.open("rb") as stream:
        stream.seek(start)
        lines = stream.read().decode("utf-8", "replace").strip().splitlines()
    return lines[-1].strip().removeprefix("error: ") if lines else ""


@contextlib.contextmanager
def asked_to_end() -> Iterator[threading.Event]:
    """An event that Ctrl-C, SIGTERM or a closed terminal sets, in the place of ending at once.

    An exception from a signal handler may be lost in a destructor; a flag is not.
    """
    ending = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda *_: ending.set()) for number in numbers}
    try:
        yield ending
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave(path: Path, document: dict) -> None:
    """Writes a JSON file that others read whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(document), encoding="utf-8")
    temporary.replace(path)


def redeploy(data_dir: Path, changes: dict[str, str]) -> dict:
    """Has the running pipeline of a data directory deploy anew; returns what it answers.

    Args:
        changes: "settings" and "model", each a path, where they are given.

    Raises:
        FailedPrecondition: NOT_UP, no pipeline is up there.
        Unavailable: REDEPLOY_FAILED, it ended meanwhile or was not done in time.
        LarimarError: what the pipeline says; then it serves as before.
    """
    running = find_running(data_dir)
    if running is None or running.port is None:
        raise FailedPrecondition(
            f"no pipeline is up in {data_dir}: start it with `larimar up`", "NOT_UP"
        )
    asked = uuid.uuid4().hex
    leave(data_dir / REDEPLOY_FILE, {"id": asked, **changes})
    deadline = time.monotonic() + REDEPLOY_TIMEOUT_S
    while time.monotonic() < deadline and _is_pipeline(running.pid):
        with contextlib.suppress(OSError, ValueError):
            answer = json.loads((data_dir / REDEPLOYED_FILE).read_text(encoding="utf-8"))
            if answer["id"] == asked:
                if answer["error"]:
                    raise from_code(*answer["error"])
                return answer
        time.sleep(POLL_S)
    raise Unavailable(
        f"the pipeline (pid {running.pid}) did not say that it is done: see {data_dir / LOG_FILE}",
        "REDEPLOY_FAILED",
    )


def stop(running: Running) -> bool:
    """Ends a pipeline in order; kills what has not ended in time. False: it had to be killed."""
    _signal(os.kill, running.pid, signal.SIGTERM)
    if _wait_gone(running.pid, STOP_TIMEOUT_S):
        return True
    with contextlib.suppress(ProcessLookupError):
        leads = os.getpgid(running.pid) == running.pid
        _signal(os.killpg if leads else os.kill, running.pid, signal.SIGKILL)
    _wait_gone(running.pid, KILL_TIMEOUT_S)
    return False


def _signal(send: Callable[[int, int], None], pid: int, number: int) -> None:
    try:
        send(pid, number)
    except ProcessLookupError:
        return
    except PermissionError:
        raise FailedPrecondition(f"pid {pid} belongs to another user", "NOT_OURS") from None


def _wait_gone(pid: int, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while _is_pipeline(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True
