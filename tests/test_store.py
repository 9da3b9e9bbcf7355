"""The embedded store: what it survives, and what the log says while it is away."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from larimar.errors import FailedPrecondition, ResourceExhausted, Unavailable
from larimar.memory import BankConfig, Kind, request_body
from services import store as store_module
from services.log import Append
from services.redis_log import RedisLog
from services.store import EmbeddedStore, socket_path_of
from services.store_server import find_server_binary
from tests.faults import seeded

ROOT = Path(__file__).parent.parent
CONFIG = BankConfig(prompt_size=4, value_size=4, scope_size=4)
T, B = "acme", "default"


def write(event_id: str) -> Append:
    body = request_body(Kind.WRITE, event_id, "p", "a")
    return Append(Kind.WRITE, event_id, f"fact of {event_id}", body, os.urandom(500))


def eventually(true: Callable[[], bool], within_s: float = 120.0) -> bool:
    deadline = time.monotonic() + within_s
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def is_gone(pid: int) -> bool:
    """Whether a process has ended, reaped or not."""
    state = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.strip()
    return not state or state.startswith("Z")


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A short path, as a user's is: pytest's own may not hold a unix socket."""
    folder = tempfile.mkdtemp(prefix="test-store-")
    yield Path(folder) / "data"
    shutil.rmtree(folder)


@pytest.fixture
def store(data_dir: Path) -> Iterator[EmbeddedStore]:
    with EmbeddedStore(data_dir) as running:
        yield running


def test_the_promised_options_are_in_force(store: EmbeddedStore) -> None:
    promised = {
        "port": "0",
        "appendonly": "yes",
        "appendfsync": "always",
        "save": "",
        "rdbcompression": "no",
        "stream-node-max-entries": "1",
        "maxmemory-policy": "noeviction",
        "unixsocketperm": "700",
        "dir": str(store.data_dir.resolve()),
    }
    with redis.Redis.from_url(store.url, decode_responses=True) as client:
        assert client.config_get(*promised) == promised
        client.set("k", "v")
    assert stat.S_IMODE(store.data_dir.stat().st_mode) == 0o700
    assert stat.S_IMODE(store.socket_path.stat().st_mode) == 0o700
    for path in store.data_dir.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_it_starts_stops_and_keeps_what_it_was_given(data_dir: Path) -> None:
    store = EmbeddedStore(data_dir)
    assert not store.is_alive()
    assert store.pid is None
    for n in range(3):
        store.start()
        store.start()
        assert socket_path_of(data_dir) == store.socket_path
        with redis.Redis.from_url(store.url) as client:
            assert client.incr("runs") == 2 * n + 1
        first = store.pid
        store.restart()
        assert store.pid != first
        assert is_gone(first)
        with redis.Redis.from_url(store.url) as client:
            assert client.incr("runs") == 2 * n + 2
        pid = store.pid
        store.stop()
        store.stop()
        assert is_gone(pid)
        assert not store.socket_path.exists()


def test_a_second_server_on_one_directory_is_refused(
    store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "LOCK_WAIT_S", 0.1)
    second = EmbeddedStore(store.data_dir)
    with pytest.raises(FailedPrecondition, match=f"in use by pid {os.getpid()} ") as caught:
        second.start()
    assert caught.value.reason == "DATA_DIR_LOCKED"
    assert str(store.pid) in caught.value.message
    assert "larimar down" in caught.value.message
    second.stop()
    assert store.is_alive()
    with redis.Redis.from_url(store.url) as client:
        assert client.ping()


def test_the_server_holds_the_lock_without_its_parent(
    store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "LOCK_WAIT_S", 0.1)
    os.close(store._lock_fd)
    store._lock_fd = None
    second = EmbeddedStore(store.data_dir)
    with pytest.raises(FailedPrecondition, match="in use by"):
        second.start()
    os.kill(store.pid, signal.SIGKILL)
    assert eventually(lambda: not store.is_alive())
    with second:
        assert second.is_alive()


ORPHAN = """
import sys, threading, time
from services.store import EmbeddedStore
store = EmbeddedStore(sys.argv[1])
thread = threading.Thread(target=store.start)
thread.start()
thread.join()
time.sleep(0.3)
print(store.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_a_killed_parent_leaves_no_orphan(data_dir: Path) -> None:
    command = [sys.executable, "-c", ORPHAN, str(data_dir)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        # Started from a thread that has ended: the server must outlive that one.
        pid = int(parent.stdout.readline())
        assert not is_gone(pid)
        parent.kill()
    assert eventually(lambda: is_gone(pid))
    with EmbeddedStore(data_dir) as store:
        assert store.is_alive()


def test_a_parent_that_forgets_to_stop_leaves_no_orphan(data_dir: Path) -> None:
    script = "import sys; from services.store import EmbeddedStore\n"
    script += "s = EmbeddedStore(sys.argv[1]); s.start(); s.supervise(); print(s.pid)"
    command = [sys.executable, "-c", script, str(data_dir)]
    ended = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=180, check=True
    )
    assert eventually(lambda: is_gone(int(ended.stdout)))
    assert "ready to exit" in (data_dir / "store.log").read_text()
    assert not (data_dir / "redis.sock").exists()


def test_a_long_directory_gets_a_short_socket(data_dir: Path) -> None:
    deep = data_dir / ("d" * 120)
    for _ in range(2):
        store = EmbeddedStore(deep)
        store.start()
        short = store.socket_path
        assert len(str(short)) < 100
        assert socket_path_of(deep) == short
        with redis.Redis.from_url(store.url) as client:
            client.incr("runs")
        os.kill(store.pid, signal.SIGKILL)
        assert eventually(lambda store=store: not store.is_alive())
        store.start()
        assert store.socket_path == short, "clients hold the path"
        with redis.Redis.from_url(store.url) as client:
            assert int(client.get("runs")) > 0
        store.stop()
        assert not short.parent.exists()
        assert not (deep / "redis.sock").is_symlink()


def test_what_cannot_start_says_why(data_dir: Path) -> None:
    with pytest.raises(FailedPrecondition, match="no server that runs at /no-such") as caught:
        EmbeddedStore(data_dir, server_binary="/no-such").start()
    assert caught.value.reason == "STORE_BINARY_MISSING"
    with EmbeddedStore(data_dir) as store, redis.Redis.from_url(store.url) as client:
        for n in range(100):
            client.set(f"k{n}", "v")
    (log,) = (data_dir / "appendonlydir").glob("*.incr.aof")
    content = log.read_bytes()
    log.write_bytes(content.replace(b"*3", b"+3", 9))
    with pytest.raises(
        FailedPrecondition, match=r"(?s)with code 1.*Bad file.*store\.log"
    ) as caught:
        EmbeddedStore(data_dir).start()
    assert caught.value.reason == "STORE_NOT_STARTED"
    log.write_bytes(content)
    with EmbeddedStore(data_dir) as store, redis.Redis.from_url(store.url) as client:
        assert client.dbsize() == 100


def test_a_long_load_is_waited_for_with_progress(data_dir: Path) -> None:
    with EmbeddedStore(data_dir) as store, redis.Redis.from_url(store.url) as client:
        pipe = client.pipeline(transaction=False)
        for n in range(8000):
            pipe.set(f"k{n}", "v")
        pipe.execute()
    slow = data_dir / "slow-server"
    slow.write_text(
        f'#!/bin/sh\nexec "{find_server_binary()}" "$@" --key-load-delay 200\n',
    )
    slow.chmod(0o700)
    seen: list[float] = []
    store = EmbeddedStore(data_dir, server_binary=slow)
    store.start(progress=seen.append)
    try:
        assert seen == sorted(seen)
        assert any(0 < fraction < 1 for fraction in seen)
        assert seen[-1] == 1.0
        with redis.Redis.from_url(store.url) as client:
            assert client.dbsize() == 8000
    finally:
        store.stop()


def test_a_dead_server_is_restarted_and_a_stopped_one_is_not(store: EmbeddedStore) -> None:
    keeper = store.supervise()
    assert store.supervise() is keeper
    for restarts in (1, 2):
        before = store.pid
        os.kill(before, signal.SIGKILL)
        assert eventually(lambda n=restarts: store.restarts == n)
        assert store.pid != before
    store.restart()
    assert store.restarts == 2
    pid = store.pid
    store.stop()
    assert not keeper.is_alive()
    assert is_gone(pid)
    assert store.pid is None


def test_supervision_outlasts_failing_starts(
    store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "MAX_BACKOFF_S", 0.2)
    (log,) = (store.data_dir / "appendonlydir").glob("*.incr.aof")
    with redis.Redis.from_url(store.url) as client:
        for n in range(100):
            client.set(f"k{n}", "v")
    content = log.read_bytes()
    log.write_bytes(content.replace(b"*3", b"+3", 9))
    store.supervise()
    os.kill(store.pid, signal.SIGKILL)
    failed, url = "Bad file format", store.url
    assert eventually(lambda: store.log_path.read_text().count(failed) >= 2)
    whole = log.with_suffix(".whole")
    whole.write_bytes(content)
    whole.replace(log)  # at once: half a file would be loaded as far as it goes
    assert eventually(lambda: store.restarts == 1)
    assert store.url == url
    with redis.Redis.from_url(store.url) as client:
        assert client.dbsize() == 100


def test_kill_9_of_the_server_loses_no_acknowledged_append(store: EmbeddedStore) -> None:
    moments = seeded("kill server")
    store.supervise()
    acknowledged: dict[str, int] = {}

    async def publish(log: RedisLog, name: str, until: asyncio.Event) -> None:
        """Appends until told to stop; repeats what it does not know the fate of."""
        n = 0
        while not until.is_set():
            items = [write(f"{name}-{n}-{i}") for i in range(3)]
            try:
                results = await log.append(T, B, items)
            except Unavailable as error:
                assert error.retry_safe
                await asyncio.sleep(0.02)
                continue
            n += 1
            for item, result in zip(items, results, strict=True):
                assert result.error is None
                acknowledged[item.event_id] = result.version

    async def run() -> None:
        log = RedisLog(store.url, timeout_s=60.0)
        await log.make_bank(T, B, CONFIG)
        for kills in (1, 2, 3):
            until = asyncio.Event()
            tasks = [asyncio.create_task(publish(log, f"{kills}-{p}", until)) for p in range(4)]
            await asyncio.sleep(moments.uniform(0.1, 0.5))
            so_far = len(acknowledged)
            os.kill(store.pid, signal.SIGKILL)
            while store.restarts < kills or len(acknowledged) < so_far + 12:
                await asyncio.sleep(0.02)
            until.set()
            await asyncio.gather(*tasks)
        events = []
        while page := (await log.tail(T, B, len(events), 500)).entries:
            events += [event for event, _ in page]
        await log.close()
        assert len(acknowledged) > 36
        assert {event.event_id: event.version for event in events}.items() >= acknowledged.items()
        assert len({event.event_id for event in events}) == len(events)

    asyncio.run(asyncio.wait_for(run(), 300))


def test_the_log_says_unavailable_in_bounded_time_and_comes_back(store: EmbeddedStore) -> None:
    async def run() -> None:
        log = RedisLog(store.url, timeout_s=2.0)
        await log.make_bank(T, B, CONFIG)
        await log.append(T, B, [write("e1")])

        async def down(call) -> None:
            began = time.monotonic()
            with pytest.raises(Unavailable, match=r"redis\.sock") as caught:
                await call
            assert caught.value.reason == "STORE_DOWN"
            assert time.monotonic() - began < 20, "they waited one after another"

        os.kill(store.pid, signal.SIGSTOP)
        await asyncio.gather(*(down(log.append(T, B, [write(f"hung-{n}")])) for n in range(40)))
        await asyncio.gather(*(down(call) for call in (log.ping(), log.tail(T, B, 0, 9))))
        os.kill(store.pid, signal.SIGCONT)
        # Replies to the calls that were given up must never answer another call.
        for n in range(60):
            (result,) = await log.append(T, B, [write(f"hung-{n}")])
            events = await log.events(T, B, result.version - 1, 1)
            assert [event.event_id for event in events] == [f"hung-{n}"]
            assert (await log.bank_config(T, B)) == CONFIG

        store.stop()
        await asyncio.gather(*(down(call) for call in (log.ping(), log.banks(T), log.head(T, B))))
        store.start()
        assert (await log.head(T, B))[0] == 61
        assert (await log.append(T, B, [write("e1")]))[0].duplicate
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(log.tail(T, B, 0, 9), timeout=0)
        assert len((await log.tail(T, B, 0, 9)).entries) == 9
        await log.close()

    asyncio.run(run())


def test_a_password_never_shows(data_dir: Path) -> None:
    async def run() -> None:
        log = RedisLog("redis://user:secret@127.0.0.1:1/0")
        with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1") as caught:
            await log.ping()
        assert "secret" not in caught.value.message
        await log.close()

    asyncio.run(run())


def test_a_full_store_refuses_whole_batches_and_still_reads(store: EmbeddedStore) -> None:
    async def run() -> None:
        log = RedisLog(store.url)
        await log.make_bank(T, B, CONFIG)
        await log.append(T, B, [write("e1")])
        with redis.Redis.from_url(store.url) as client:
            client.config_set("maxmemory", 1)
            with pytest.raises(ResourceExhausted, match="maxmemory") as caught:
                await log.append(T, B, [write(f"x{n}") for n in range(50)])
            assert caught.value.reason == "STORE_FULL"
            assert (await log.head(T, B))[0] == 1
            assert len((await log.tail(T, B, 0, 10)).entries) == 1
            client.config_set("maxmemory", 0)
        assert [r.version for r in await log.append(T, B, [write("x0"), write("x1")])] == [2, 3]
        await log.close()

    asyncio.run(run())


def test_a_store_that_refuses_is_quoted(store: EmbeddedStore) -> None:
    async def run() -> None:
        log = RedisLog(store.url)
        await log.make_bank(T, B, CONFIG)
        with redis.Redis.from_url(store.url) as client:
            client.config_set("min-replicas-to-write", 1)
            with pytest.raises(Unavailable, match="NOREPLICAS"):
                await log.append(T, B, [write("e1")])
            client.config_set("min-replicas-to-write", 0)
            client.replicaof("127.0.0.1", 1)
            with pytest.raises(Unavailable, match="refuses for now"):
                await log.append(T, B, [write("e1")])
            client.replicaof("NO", "ONE")
        assert (await log.append(T, B, [write("e1")]))[0].version == 1
        await log.close()

    asyncio.run(run())


def test_stop_interrupts_a_start_that_waits(data_dir: Path) -> None:
    hangs = data_dir.parent / "hangs"
    hangs.write_text("#!/bin/sh\nexec sleep 600\n")
    hangs.chmod(0o700)
    store = EmbeddedStore(data_dir, server_binary=hangs)
    errors: list[Exception] = []

    def start() -> None:
        try:
            store.start()
        except FailedPrecondition as error:
            errors.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    assert eventually(lambda: store.pid is not None)
    pid = store.pid
    store.stop()
    thread.join(120)
    assert "it was stopped" in str(errors[0])
    assert is_gone(pid)
    with EmbeddedStore(data_dir) as again:
        assert again.is_alive()
