"""Power cuts: what was acknowledged is on the disk, whenever the power goes.

The store runs on an ext4 file system of its own, on a loop device. While writers append, the file
system is shut down as by a power failure (the kernel's EXT4_IOC_SHUTDOWN without a flush of its
journal): nothing that was not written to the device by then gets there any more. It is mounted
again, which replays its journal, another server starts on what is there, and every acknowledged
event is looked up in the log, whose chain and payload digests are checked on the way.

Simulated: the loss of the page cache, of files that grew, and of directory entries and renames
(some rounds cut into a rewrite of the append-only file). Not simulated: a disk that acknowledges a
flush and forgets it, and writes that the device tore or reordered between two flushes. Answers that
arrive after the cut do not count: the server would have no power to give them (a file system that
is being shut down may report an fsync as done). The same with fsync every second shows that such a
cut can lose what was acknowledged.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from benchmarks.measure import Aim, Report
from larimar.errors import FailedPrecondition, LarimarError, Unavailable
from larimar.memory import BankConfig, Kind, request_body
from services.log import Append
from services.redis_log import RedisLog
from services.store_server import find_server_binary, server_command

ROUNDS, QUICK_ROUNDS = 20, 2
LOSING_ROUNDS, QUICK_LOSING_ROUNDS = 5, 1
"""Rounds with fsync every second."""
WRITERS = 8
PAYLOAD_BYTES = 1000
SHORTEST_S, LONGEST_S = 0.3, 1.2
"""Time for which is written before the power goes."""
REWRITE_SHARE = 0.4
"""Rounds in which the append-only file is being rewritten meanwhile."""
PAUSE_S = 0.002
"""Between two looks at whether the server answers."""
START_TIMEOUT_S = 30.0
DISK_BYTES = 256 * 2**20
EXT4_IOC_SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = (2).to_bytes(4, "little")
"""EXT4_GOING_FLAGS_NOLOGFLUSH: the journal stays as it is on the device."""
SEEDS = 10**6
T, B = "benchmark", "powercut"


class Disk:
    """An ext4 file system on a loop device, whose power can be cut.

    Args:
        folder: where its image and its mount point are made.

    Attributes:
        path: where it is mounted.
    """

    def __init__(self, folder: Path) -> None:
        self._image = folder / "disk.img"
        self.path = folder / "disk"
        self.path.mkdir()
        with self._image.open("wb") as image:
            image.truncate(DISK_BYTES)
        self._do("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0", str(self._image))

    def mount(self) -> None:
        """Makes it usable; after a cut its journal is replayed."""
        self._do("mount", "-o", "loop", str(self._image), str(self.path))

    def unmount(self) -> None:
        """Takes it away."""
        self._do("umount", str(self.path))

    def cut(self) -> None:
        """From now on nothing reaches the device."""
        folder = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(folder, EXT4_IOC_SHUTDOWN, NO_LOG_FLUSH)
        finally:
            os.close(folder)

    def _do(self, *command: str) -> None:
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            why = done.stderr.strip() if done.returncode else ""
        except FileNotFoundError:
            why = "there is no such command"
        if why:
            raise FailedPrecondition(
                f"{command[0]}: {why}; this benchmark needs Linux, root, mkfs.ext4 and a loop "
                "device",
                "NO_LOOP_DEVICE",
            )


def run(
    quick: bool,
    use_ray: bool,
    told: Callable[[str], None],
    rounds: int | None = None,
    seed: int | None = None,
) -> Report:
    """Acknowledged events that were lost, over some cuts, with either way to fsync.

    Args:
        use_ray: has no part in this.

    Raises:
        FailedPrecondition: NO_LOOP_DEVICE.
    """
    rounds = rounds or (QUICK_ROUNDS if quick else ROUNDS)
    losing_rounds = QUICK_LOSING_ROUNDS if quick else LOSING_ROUNDS
    seed = random.SystemRandom().randrange(SEEDS) if seed is None else seed
    report = Report(
        {"rounds": rounds, "rounds_everysec": losing_rounds, "writers": WRITERS, "seed": seed}
    )
    rng = random.Random(seed)
    for fsync, count in (("always", rounds), ("everysec", losing_rounds)):
        found = []
        for number in range(count):
            acknowledged, lost = asyncio.run(one_round(rng, fsync))
            told(f"fsync {fsync}, cut {number + 1}: {lost} of {acknowledged} lost")
            found.append((acknowledged, lost))
        report.measure(f"fsync {fsync}: acknowledged before a cut", "events", [a for a, _ in found])
        report.measure(f"fsync {fsync}: of these lost", "events", [lost for _, lost in found])
        total = sum(lost for _, lost in found)
        aim = Aim(0, at_least=False) if fsync == "always" else Aim(1, at_least=True)
        report.compare(f"fsync {fsync}: acknowledged", sum(a for a, _ in found), unit="events")
        report.compare(f"fsync {fsync}: acknowledged and lost", total, aim, "events")
    return report


async def one_round(rng: random.Random, fsync: str) -> tuple[int, int]:
    """Writes, cuts the power, starts again: events acknowledged, and how many of them are gone.

    Raises:
        LarimarError: what is left is no sound log.
    """
    seconds, rewrites = rng.uniform(SHORTEST_S, LONGEST_S), rng.random() < REWRITE_SHARE
    with tempfile.TemporaryDirectory(prefix="larimar-powercut-", dir="/tmp") as folder:
        disk = Disk(Path(folder))
        disk.mount()
        try:
            with server(Path(folder), disk.path) as url:
                with Redis.from_url(url) as raw:
                    raw.config_set("appendfsync", fsync)
                acknowledged = await written(url, disk, seconds, rewrites)
        finally:
            disk.unmount()
        disk.mount()
        try:
            with server(Path(folder), disk.path) as url:
                held = await in_log(url)
        finally:
            disk.unmount()
    lost = sum(held.get(event_id) != version for event_id, version in acknowledged.items())
    return len(acknowledged), lost


@contextlib.contextmanager
def server(folder: Path, data_dir: Path) -> Iterator[str]:
    """A store's server with the options that the promises rest on, killed at the end; its URL.

    Its socket and its output are elsewhere: they outlive the disk.
    """
    socket = folder / "socket"
    command = server_command(find_server_binary(), data_dir, socket)
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    url = f"unix://{socket}"
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        with Redis.from_url(url) as raw:
            while True:
                try:
                    raw.ping()
                    break
                except (RedisError, OSError) as error:
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise Unavailable(
                            "the store does not start on what the cut has left"
                        ) from error
                    time.sleep(PAUSE_S)
        yield url
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        process.wait()


async def written(url: str, disk: Disk, seconds: float, rewrites: bool) -> dict[str, int]:
    """Appends from all writers until the power goes: event id -> version of what they were told
    before."""
    log = RedisLog(url)
    await log.make_bank(T, B, BankConfig(prompt_size=1, value_size=1, scope_size=1))
    acknowledged: dict[str, int] = {}

    async def write(writer: int) -> None:
        number = 0
        while True:
            event_id = f"{writer}-{number}"
            body = request_body(Kind.WRITE, event_id, "p", "a")
            item = Append(Kind.WRITE, event_id, event_id, body, os.urandom(PAYLOAD_BYTES))
            try:
                (result,) = await log.append(T, B, [item])
            except LarimarError:  # the power is gone, and the server with it
                return
            acknowledged[event_id] = result.version
            number += 1

    async def rewrite() -> None:
        with contextlib.suppress(LarimarError):
            while True:
                await log.rewrite_files()

    work = [asyncio.create_task(write(writer)) for writer in range(WRITERS)]
    rewriter = asyncio.create_task(rewrite()) if rewrites else None
    await asyncio.sleep(seconds)
    received = dict(acknowledged)
    disk.cut()
    await asyncio.wait_for(asyncio.gather(*work), START_TIMEOUT_S)
    if rewriter is not None:
        rewriter.cancel()
        await asyncio.gather(rewriter, return_exceptions=True)
    await log.close()
    return received


async def in_log(url: str) -> dict[str, int]:
    """Event id -> version of every entry; chain, versions and payloads are checked."""
    log = RedisLog(url)
    held: dict[str, int] = {}
    try:
        if B not in await log.banks(T):
            return held
        after, chain = 0, ""
        while entries := (await log.tail(T, B, after, 1000, chain)).entries:
            held.update((event.event_id, event.version) for event, _ in entries)
            after, chain = entries[-1][0].version, entries[-1][0].chain
        if sorted(held.values()) != list(range(1, after + 1)):
            raise LarimarError("an event is twice in the log", "BAD_MEASUREMENT")
        return held
    finally:
        await log.close()
