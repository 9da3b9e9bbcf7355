"""The embedded store: one Valkey server that belongs to one data directory.

The server keeps every acknowledged event through kill -9 of any process, because it
fsyncs its append-only file before it answers. Three habits keep it honest:

- A flock on ``<data_dir>/lock`` that the server inherits. Two servers on one directory
  lose acknowledged writes, so the lock lives as long as this process OR the server does.
- On Linux the server dies with the process that started it (PR_SET_PDEATHSIG), so a
  killed parent leaves no orphan. The signal follows the parent THREAD: the server is
  started by a thread of its own that lives as long as this object serves.
- The socket path fits ``sun_path``: a long data directory gets its socket in a short
  private directory, and ``<data_dir>/redis.sock`` is a symlink that names it.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self
from urllib.parse import quote

from larimar.errors import FailedPrecondition, LarimarError
from services.observability.logs import get_logger
from services.store_server import Starter, find_server_binary, server_command

logger = get_logger("larimar.store")

#: Bytes of a unix socket path: sun_path holds 104 on macOS and 108 on Linux, with its NUL.
MAX_SOCKET_PATH_BYTES = 100
#: Seconds to wait for the lock: a server whose parent was killed needs a moment to go.
LOCK_WAIT_S = 3.0
#: Seconds without an answer and without progress after which a start has failed.
START_STALL_S = 30.0
#: Seconds a polite stop may take; the server only has to close its file.
STOP_TIMEOUT_S = 10.0
#: First and longest pause before a restart, seconds: quick for one crash, calm for a loop.
MIN_BACKOFF_S = 0.1
MAX_BACKOFF_S = 5.0
#: A server that lived this long, seconds, earns the first pause again.
HEALTHY_S = 30.0
#: Bytes of log file after which a start moves it aside; one older file is kept.
MAX_LOG_BYTES = 8 * 2**20
#: Lines of the server's log that an error shows.
LOG_TAIL_LINES = 8

#: Files that a server was writing when it was killed. The next one neither reads nor removes them,
#: and what is erased later would stay in them.
HALF_WRITTEN = ("temp-*.aof", "temp-*.rdb", "appendonlydir/temp-*")

SOCKET_NAME = "redis.sock"
LOCK_NAME = "lock"
LOG_NAME = "store.log"


def socket_path_of(data_dir: str | os.PathLike[str]) -> Path:
    """Where the store of a data directory listens: its socket, or what its symlink names."""
    named = Path(data_dir).absolute() / SOCKET_NAME
    return Path(os.readlink(named)) if named.is_symlink() else named


class EmbeddedStore:
    """One Valkey server process on one data directory.

    Every method may be called from any thread. ``with EmbeddedStore(d) as store:`` starts
    and stops it.

    Args:
        data_dir: holds everything durable; made with mode 0700 when it is not there.
        server_binary: another Redis >= 7 or Valkey >= 8 server than the packaged one.

    Attributes:
        data_dir, log_path: absolute paths.
        restarts: how often supervise() has brought the server back.
    """

    def __init__(
        self,
        data_dir: str | os.PathLike[str],
        server_binary: str | os.PathLike[str] | None = None,
    ) -> None:
        self.data_dir = Path(data_dir).absolute()
        self.log_path = self.data_dir / LOG_NAME
        self.restarts = 0
        self._binary = Path(server_binary) if server_binary is not None else None
        self._owner = os.getpid()
        self._guard = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock_fd: int | None = None
        self._socket_path: Path | None = None
        self._starter: Starter | None = None
        self._supervisor: threading.Thread | None = None
        self._stopping = threading.Event()

    @property
    def pid(self) -> int | None:
        """The server's process id, None when it does not run."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    @property
    def socket_path(self) -> Path:
        """The unix socket to connect to."""
        return self._socket_path or socket_path_of(self.data_dir)

    @property
    def url(self) -> str:
        """The same as a URL."""
        return f"unix://{quote(str(self.socket_path))}"

    def is_alive(self) -> bool:
        """Whether the server process runs."""
        return self.pid is not None

    def start(self, progress: Callable[[float], None] | None = None) -> None:
        """Starts the server and returns when it answers.

        Args:
            progress: called with the fraction loaded, 0 to 1, while a long log is read.

        Raises:
            FailedPrecondition: DATA_DIR_LOCKED when another process has the directory;
                STORE_BINARY_MISSING; STORE_NOT_STARTED with the end of the server's log.
                Nothing keeps running.
        Cost: 0.1 s on an empty directory; reading a log back about 100 MB/s.
        """
        with self._guard:
            self._stopping.clear()
            self._start(progress)

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Stops the server and frees the directory; kills it if it has not gone in time.

        Safe to call again; no acknowledged event is lost either way.
        """
        if os.getpid() != self._owner:
            return
        self._stopping.set()
        supervisor = self._supervisor
        with self._guard:
            self._end(timeout_s)
            self._release()
            atexit.unregister(self.stop)
        if supervisor is not None and supervisor is not threading.current_thread():
            supervisor.join()
            self._supervisor = None

    def restart(self, progress: Callable[[float], None] | None = None) -> None:
        """Stops and starts the server; directory and socket path stay ours, also when it fails.

        Raises: as start().
        """
        with self._guard:
            self._end(STOP_TIMEOUT_S)
            self.start(progress)

    def supervise(self) -> threading.Thread:
        """Restarts the server whenever it dies, until stop(); returns the thread that does it.

        Pauses before each attempt, MIN_BACKOFF_S doubling up to MAX_BACKOFF_S; goes on
        trying, since a full disk or a memory limit may be lifted at any time.
        """
        with self._guard:
            if self._supervisor is None or not self._supervisor.is_alive():
                self._supervisor = threading.Thread(
                    target=self._keep_alive,
                    name="larimar-store-supervisor",
                    daemon=True,
                )
                self._supervisor.start()
            return self._supervisor

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _start(self, progress: Callable[[float], None] | None = None) -> None:
        """start() for the supervisor, which must not take back a stop() that has begun."""
        if self.is_alive():
            return
        binary = find_server_binary(self._binary)
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        first = self._lock_fd is None
        if self._lock_fd is None:
            self._lock_fd = _take_lock(self.data_dir)
        try:
            self._remove_half_written()
            process, socket_path = self._spawn(binary, self._lock_fd)
            self._wait_until_it_answers(process, socket_path, progress)
        except BaseException:
            self._kill()
            # A restart that fails keeps the directory and the socket's path: clients hold it.
            if first:
                self._release()
            raise
        atexit.register(self.stop)

    def _keep_alive(self) -> None:
        pause_s = MIN_BACKOFF_S
        while not self._stopping.is_set():
            process, since = self._process, time.monotonic()
            if process is not None:
                code = process.wait()
                if self._stopping.is_set():
                    return
                logger.warning("the store (pid %d) ended with code %d", process.pid, code)
                if time.monotonic() - since > HEALTHY_S:
                    pause_s = MIN_BACKOFF_S
            if self._stopping.wait(pause_s):
                return
            pause_s = min(2 * pause_s, MAX_BACKOFF_S)
            with self._guard:
                if self._stopping.is_set():
                    return
                if self.is_alive():
                    continue
                try:
                    self._start()
                except (LarimarError, OSError) as error:
                    logger.error("the store does not start: %s", error)
                else:
                    self.restarts += 1

    def _remove_half_written(self) -> None:
        for pattern in HALF_WRITTEN:
            for path in self.data_dir.glob(pattern):
                path.unlink(missing_ok=True)

    def _spawn(self, binary: Path, lock_fd: int) -> tuple[subprocess.Popen[bytes], Path]:
        """Runs the server through the launcher, from the starter thread."""
        if self._socket_path is None:
            self._clear_socket()
            self._socket_path = _choose_socket_path(self.data_dir)
        socket_path = self._socket_path
        if self.log_path.exists() and self.log_path.stat().st_size > MAX_LOG_BYTES:
            self.log_path.replace(self.log_path.with_suffix(".log.1"))
        if self._starter is None:
            self._starter = Starter()
        command = server_command(binary, self.data_dir, socket_path)
        with open(self.log_path, "ab", opener=_private_opener) as log:
            process = self._process = self._starter.call(
                lambda: subprocess.Popen(
                    command,
                    cwd=self.data_dir,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(lock_fd,),
                    # Ctrl-C goes to the whole process group; only stop() ends the store.
                    start_new_session=True,
                )
            )
        _write_holder(lock_fd, os.getpid(), process.pid)
        return process, socket_path

    def _wait_until_it_answers(
        self,
        process: subprocess.Popen[bytes],
        socket_path: Path,
        progress: Callable[[float], None] | None,
    ) -> None:
        """Returns at the first PONG. Raises FailedPrecondition when the server dies or stalls."""
        deadline, last_fraction = time.monotonic() + START_STALL_S, -1.0
        while time.monotonic() < deadline:
            if self._stopping.is_set():
                raise self._not_started("it was stopped")
            if process.poll() is not None:
                raise self._not_started(f"it ended with code {process.returncode}")
            answer = _ask(socket_path, b"PING\r\n", timeout_s=2.0)
            if answer.startswith(b"+PONG"):
                if progress is not None and last_fraction >= 0:
                    progress(1.0)
                return
            if answer.startswith(b"-LOADING"):
                fraction = _loaded_fraction(socket_path)
                if fraction > last_fraction:
                    deadline, last_fraction = time.monotonic() + START_STALL_S, fraction
                    if progress is not None:
                        progress(fraction)
            time.sleep(0.01 if last_fraction < 0 else 0.1)
        raise self._not_started(f"it has made no progress for {START_STALL_S:.0f} s")

    def _not_started(self, why: str) -> FailedPrecondition:
        with contextlib.suppress(OSError):
            lines = self.log_path.read_text(errors="replace").splitlines()
            why += "; its log ends:\n  " + "\n  ".join(lines[-LOG_TAIL_LINES:])
        return FailedPrecondition(
            f"the store on {self.data_dir} does not start: {why}\nsee {self.log_path}",
            "STORE_NOT_STARTED",
        )

    def _end(self, timeout_s: float) -> None:
        """Asks the server to shut down (SIGTERM is its SHUTDOWN), then kills it."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout_s)
        self._kill()

    def _kill(self) -> None:
        if self._process is not None:
            if self._process.poll() is None:
                self._process.kill()
            self._process.wait()
            self._process = None

    def _release(self) -> None:
        """Frees the directory, if it is ours: the socket, the starter thread, then the lock."""
        if self._starter is not None:
            self._starter.close()
            self._starter = None
        if self._lock_fd is not None:
            self._clear_socket()
            os.close(self._lock_fd)
            self._lock_fd = None

    def _clear_socket(self) -> None:
        """Removes the socket, and the short directory when there is one and it is ours."""
        named = self.data_dir / SOCKET_NAME
        if named.is_symlink():
            short = Path(os.readlink(named)).parent
            with contextlib.suppress(OSError):
                if short.name.startswith("larimar-") and short.stat().st_uid == os.getuid():
                    shutil.rmtree(short)
        named.unlink(missing_ok=True)
        self._socket_path = None


def _take_lock(data_dir: Path) -> int:
    """The locked file descriptor. Raises FailedPrecondition DATA_DIR_LOCKED."""
    fd = os.open(data_dir / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            holder = os.pread(fd, 200, 0).decode(errors="replace").strip() or "another process"
            os.close(fd)
            raise FailedPrecondition(
                f"the data directory {data_dir} is in use by {holder}; stop that pipeline "
                f"(larimar down --data-dir {data_dir}), or end that process if nothing else "
                "does, or choose another --data-dir",
                "DATA_DIR_LOCKED",
            ) from None


def _write_holder(lock_fd: int, owner: int, server: int) -> None:
    """Names the holder inside the lock file, for the message that the next one gets."""
    os.ftruncate(lock_fd, 0)
    os.pwrite(lock_fd, f"pid {owner} (its store server: pid {server})\n".encode(), 0)


def _choose_socket_path(data_dir: Path) -> Path:
    """A path that fits sun_path; a short private directory and a symlink when it does not."""
    direct = data_dir / SOCKET_NAME
    if len(os.fsencode(direct)) <= MAX_SOCKET_PATH_BYTES:
        return direct
    for parent in (tempfile.gettempdir(), "/tmp"):
        short = Path(tempfile.mkdtemp(prefix="larimar-", dir=parent)) / SOCKET_NAME
        if len(os.fsencode(short)) <= MAX_SOCKET_PATH_BYTES:
            direct.symlink_to(short)
            return short
        short.parent.rmdir()
    raise FailedPrecondition(
        f"no directory is short enough for a unix socket ({MAX_SOCKET_PATH_BYTES} bytes): "
        "set TMPDIR to a short path",
        "STORE_NOT_STARTED",
    )


def _private_opener(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _ask(socket_path: Path, command: bytes, timeout_s: float) -> bytes:
    """The first bytes of the server's answer to an inline command; empty when there is none."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            connection.connect(str(socket_path))
            connection.sendall(command)
            return connection.recv(65536)
    except OSError:
        return b""


def _loaded_fraction(socket_path: Path) -> float:
    """How much of the log the server has read back, 0 to 1."""
    for line in _ask(socket_path, b"INFO persistence\r\n", timeout_s=2.0).splitlines():
        name, _, value = line.partition(b":")
        if name == b"loading_loaded_perc":
            return float(value) / 100
    return 0.0
