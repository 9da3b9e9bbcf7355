"""What belongs to one user of one machine: the folder of sockets and locks, and who has a port."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from larimar.errors import FailedPrecondition, Unavailable

MAX_BASE_CHARS = 48
"""Of the folder for temporary files: a socket's path has 100 bytes, and its name needs half."""
_DIGEST_CHARS = 12
"""Of a data directory's hash in a socket's name: short, as a socket's path has 100 bytes."""


def private_folder() -> Path:
    """A folder that only this user can look into.

    Raises:
        FailedPrecondition: NOT_PRIVATE, somebody else made it, or others may use it.
    """
    base = tempfile.gettempdir()
    folder = Path(base if len(base) <= MAX_BASE_CHARS else "/tmp") / f"larimar-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise FailedPrecondition(
            f"{folder} is not a private folder of this user: remove it", "NOT_PRIVATE"
        )
    return folder


def _prefix(data_dir: str) -> str:
    where = str(Path(data_dir).resolve())
    return f"probe-{hashlib.sha256(where.encode()).hexdigest()[:_DIGEST_CHARS]}-"


def probe_socket(data_dir: str, pid: int) -> Path:
    """Where the gateway of a data directory that runs as a process listens privately."""
    return private_folder() / f"{_prefix(data_dir)}{pid}.sock"


def probe_sockets(data_dir: str) -> list[Path]:
    """Where gateways of a data directory listen privately; those of ended ones are removed."""
    found = []
    for path in sorted(private_folder().glob(f"{_prefix(data_dir)}*.sock")):
        with contextlib.suppress(ValueError):
            pid = int(path.stem.rpartition("-")[2])
            if alive(pid):
                found.append(path)
            else:
                path.unlink(missing_ok=True)
    return found


def alive(pid: int) -> bool:
    """Whether a process of this machine runs, whoever's it is."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextlib.contextmanager
def port_held(port: int, option: str = "--port", host: str = "127.0.0.1") -> Iterator[None]:
    """Keeps a port for one pipeline of this user, while the block runs.

    Replicas of one gateway share their port, and the kernel would let another pipeline's replicas
    share it too. Until they listen, the kernel does not give it to anyone who asks for a free port.

    Raises:
        Unavailable: PORT_IN_USE, another pipeline or program has it.
    """
    descriptor = os.open(private_folder() / f"port-{port}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Unavailable(
                f"port {port} is in use by another pipeline: stop that one, or give another "
                f"{option}",
                "PORT_IN_USE",
            ) from None
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as bound:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            try:
                bound.bind((host, port))
            except OSError as error:
                raise Unavailable(
                    f"port {port} is in use: stop what listens there, or give another {option}",
                    "PORT_IN_USE",
                ) from error
            yield
    finally:
        os.close(descriptor)
