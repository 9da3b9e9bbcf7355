"""An append that replicas of the store must confirm: two real servers, one following the other."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from command_line import free_port
from logs import CONFIG, write

from larimar.errors import InvalidArgument, Unavailable
from services.redis_log import RedisLog
from services.settings import Settings
from services.store_server import find_server_binary
from services.up import settled

T, B = "default", "bank"


@contextlib.contextmanager
def server(folder: Path, port: int, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server of the test's own on a TCP port."""
    command = [
        str(find_server_binary()), "--port", str(port), "--bind", "127.0.0.1", "--save", "",
        "--dir", str(folder), "--repl-diskless-sync-delay", "0", *options,
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for_replica(port: int) -> None:
    deadline = time.monotonic() + 120
    while True:
        with contextlib.suppress(redis.ConnectionError), redis.Redis(port=port) as client:
            if client.info("replication").get("master_link_status") == "up":
                return
        assert time.monotonic() < deadline, "the replica does not follow"
        time.sleep(0.05)


def test_an_edit_is_acknowledged_once_a_replica_has_it(tmp_path: Path) -> None:
    primary_port, replica_port = free_port(), free_port()
    follow = ("--replicaof", "127.0.0.1", str(primary_port))
    with (
        server(tmp_path, primary_port, "--appendonly", "no"),
        server(tmp_path, replica_port, *follow) as replica,
    ):
        wait_for_replica(replica_port)

        async def run() -> None:
            log = RedisLog(f"redis://127.0.0.1:{primary_port}", timeout_s=3.0, replicas=1)
            copy = RedisLog(f"redis://127.0.0.1:{replica_port}")
            await log.make_bank(T, B, CONFIG)
            assert (await log.append(T, B, [write("e1", "f1")]))[0].version == 1
            assert [e.event_id for e in await copy.events(T, B, 0, 10)] == ["e1"]
            os.kill(replica.pid, signal.SIGSTOP)
            for _ in range(2):  # the second time it is a duplicate, and waits all the same
                with pytest.raises(Unavailable, match="0 of 1 replicas") as caught:
                    await log.append(T, B, [write("e2", "f2")])
                assert caught.value.reason == "NOT_CONFIRMED" and caught.value.retry_safe
            os.kill(replica.pid, signal.SIGCONT)
            assert (await log.append(T, B, [write("e2", "f2")]))[0].version == 2
            assert [e.event_id for e in await copy.events(T, B, 0, 10)] == ["e1", "e2"]
            await log.close()
            await copy.close()

        asyncio.run(asyncio.wait_for(run(), 120))


def test_the_embedded_store_has_no_replicas_to_ask(tmp_path: Path) -> None:
    settings = Settings(data_dir=str(tmp_path), port=free_port(), http_port=0, redis_replicas=1)
    with pytest.raises(InvalidArgument, match="--redis-url"):
        settled(settings, {})
