"""How tests run `larimar` as a process of its own: piped, or with a terminal."""

from __future__ import annotations

import os
import pty
import select
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def environment(**more: str) -> dict[str, str]:
    """Of a child: the checkout's package, and nothing that would force colours."""
    kept = {name: value for name, value in os.environ.items() if "COLOR" not in name}
    return {**kept, "PYTHONPATH": str(ROOT), "TERM": "xterm", **more}


def command(*args: str | bytes, **options) -> subprocess.CompletedProcess:
    """A `larimar` command as a process of its own."""
    options = {"env": environment(), "timeout": 60, "capture_output": True, **options}
    return subprocess.run([sys.executable, "-m", "larimar.cli", *args], check=False, **options)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def on_a_terminal(*args: str, **env: str) -> tuple[int, str]:
    """A command whose stderr is a terminal: its exit status and what the terminal got."""
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "larimar.cli", *args],
        env=environment(**env),
        stdout=subprocess.PIPE,
        stderr=follower,
    ) as child:
        os.close(follower)
        screen = b""
        while select.select([leader], [], [], 30)[0]:
            try:
                got = os.read(leader, 65536)
            except OSError:
                break
            if not got:
                break
            screen += got
        os.close(leader)
        return child.wait(30), screen.decode()
