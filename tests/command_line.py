"""How tests run `larimar` as a process of its own: piped, or with a terminal."""

from __future__ import annotations

import contextlib
import os
import pty
import random
import select
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 180.0
"""How long a command may take on a busy machine: none should take a tenth of it."""
UNASSIGNED_PORTS = range(20_000, 32_000)
"""Ports that Linux gives to nobody who asks for any port, or who connects to one."""


def environment(**more: str) -> dict[str, str]:
    """Of a child: the checkout's package, and nothing that would force colours."""
    kept = {name: value for name, value in os.environ.items() if "COLOR" not in name}
    return {**kept, "PYTHONPATH": str(ROOT), "TERM": "xterm", **more}


def command(*args: str | bytes, **options) -> subprocess.CompletedProcess:
    """A `larimar` command as a process of its own."""
    options = {"env": environment(), "timeout": PATIENCE_S, "capture_output": True, **options}
    return subprocess.run([sys.executable, "-m", "larimar.cli", *args], check=False, **options)


def free_port() -> int:
    """A port on which nobody listens; no other test is likely to be told the same one."""
    while True:
        port = random.SystemRandom().choice(UNASSIGNED_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


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
        while select.select([leader], [], [], PATIENCE_S)[0]:
            try:
                got = os.read(leader, 65536)
            except OSError:
                break
            if not got:
                break
            screen += got
        os.close(leader)
        return child.wait(PATIENCE_S), screen.decode()
