"""SIGKILL under load: every process in turn, at random moments, while writers edit one bank.

A round kills one process of a running pipeline (a service, the gateway, the store, or all at once
and then a new start), and waits until every writer is acknowledged and every service ready again.
Writers retry an edit under its event id until it is acknowledged. What was acknowledged is then
looked up in the log: at its version, once, with no version missing; and what is served is compared
with a replay from nothing, byte by byte.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import larimar
from benchmarks.measure import Aim, Report
from larimar.cli import processes
from larimar.errors import Cancelled, DeadlineExceeded, LarimarError, Unavailable

ROUNDS, QUICK_ROUNDS = 100, 3
RAY_SHARE = 0.1
"""Rounds on a pipeline with Ray, where there is one; the others are quicker."""
VICTIMS = ("encoder", "scope", "memory", "decoder", "gateway", "store", "tree")
"""What is killed; `tree` is every process of the pipeline, its supervisor first."""
FIRST_VICTIMS = ("store", "tree", "memory")
"""Killed first, so that few rounds have the hardest."""
WRITERS = 3
FACTS = 40
"""Facts of one writer: it replaces them over and over, so that most events undo an older one."""
FORGET_EVERY = 9
CHECKPOINT_EVERY = 100
"""Events between two checkpoints: so few that kills find them half done."""
CHECK_EVERY = 10
"""Rounds between two looks at the whole log."""
LONGEST_PAUSE_S = 1.0
"""Before a kill, at random."""
TIMEOUT_S = 10.0
RECOVERY_S = 120.0
"""Until every writer has been acknowledged again."""
RETRY_PAUSE_S = 0.05
SEEDS = 10**6
UNKNOWN = 2
"""gRPC's code of a call whose connection died under it."""
BANK = "chaos"
_STORE_PID = re.compile(r"store server: pid (\d+)")


class OwnPipeline:
    """A pipeline of this benchmark's own, killed and started again on one port and directory.

    Attributes:
        folder: its data directory.
        port, target: where it serves.
    """

    def __init__(self, folder: Path, no_ray: bool, *options: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.target = f"127.0.0.1:{self.port}"
        self.folder = folder
        self._options = ["--data-dir", str(folder), "--port", str(self.port), "--http-port", "0"]
        self._options += ["--no-ray"] * no_ray
        self._child: subprocess.Popen | None = None
        self._options += options

    def start(self) -> None:
        """Starts it; returns when it answers. Raises: Unavailable."""
        log = self.folder / processes.LOG_FILE
        self.folder.mkdir(parents=True, exist_ok=True)
        log.touch()
        size = log.stat().st_size
        root = processes.checkout_root()
        self._child = processes.start(self._options, root, log, detached=True)
        processes.wait_until_up(
            self._child, self.folder, log, size, lambda _: True, threading.Event()
        )

    def kill(self, victim: str) -> None:
        """SIGKILL for one of the VICTIMS; after `tree` it is started again."""
        if victim == "tree":
            self.kill_tree()
            self.start()
            return
        _kill(self.pid(victim))

    def pid(self, name: str) -> int:
        """The process of a service, of the gateway, or of the store, as it is now.

        Raises:
            Unavailable: the pipeline is not ready.
        """
        if name == "store":
            found = _STORE_PID.search((self.folder / processes.LOCK_FILE).read_text())
            if found is None:
                raise Unavailable("the lock file does not name the store's process", "NO_PID")
            return int(found[1])
        return self.ready_pids()[name]

    def ready_pids(self) -> dict[str, int]:
        """The processes of the gateway and of all services, once every one is ready.

        Raises:
            Unavailable: they are not within RECOVERY_S.
        """
        deadline = time.monotonic() + RECOVERY_S
        with larimar.connect(self.target, timeout_s=RECOVERY_S) as client:
            while True:
                services = client.status().services
                if all(one.ready and one.pid for one in services):
                    return {one.name: one.pid for one in services}
                if time.monotonic() > deadline:
                    down = ", ".join(one.name for one in services if not one.ready)
                    raise Unavailable(f"not ready again after {RECOVERY_S:.0f} s: {down}", "STUCK")
                time.sleep(RETRY_PAUSE_S)

    @property
    def pids(self) -> list[int]:
        """Every process of it, the supervisor first; none before it was started."""
        return family(self._child.pid) if self._child is not None else []

    def stop(self) -> None:
        """Ends it, in order if it can."""
        if self._child is not None:
            processes.stop(processes.Running(self._child.pid, self.port))
            self._child.wait()

    def kill_tree(self) -> None:
        """SIGKILL for every process of it, the supervisor first, as when the machine is gone."""
        assert self._child is not None
        for pid in self.pids:
            _kill(pid)
        self._child.wait()


def family(pid: int) -> list[int]:
    """A process and all that descend from it, parents first."""
    listing = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid="], check=True, capture_output=True, text=True
    )
    children: dict[int, list[int]] = {}
    for line in listing.stdout.splitlines():
        child, parent = map(int, line.split())
        children.setdefault(parent, []).append(child)
    found = [pid]
    for member in found:
        found.extend(children.get(member, []))
    return found


def _kill(pid: int) -> None:
    assert pid > 1, "0 and less are groups of processes, our own among them"
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def own_pipeline(no_ray: bool) -> Iterator[OwnPipeline]:
    """A started pipeline that saves checkpoints often; nothing of it is left at the end."""
    folder = Path(tempfile.mkdtemp(prefix="larimar-chaos-"))
    pipeline = OwnPipeline(folder, no_ray)
    try:
        with settings_file(folder, checkpoint_every=CHECKPOINT_EVERY):
            pipeline.start()
            yield pipeline
    finally:
        pipeline.stop()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def settings_file(folder: Path, **settings: Any) -> Iterator[None]:
    """Pipelines that are started meanwhile take these settings."""
    file = folder / "settings.json"
    file.write_text(json.dumps(settings))
    before = os.environ.get("LARIMAR_SETTINGS")
    os.environ["LARIMAR_SETTINGS"] = str(file)
    try:
        yield
    finally:
        if before is None:
            del os.environ["LARIMAR_SETTINGS"]
        else:
            os.environ["LARIMAR_SETTINGS"] = before


class Writer:
    """Edits facts one after the other, each until it is acknowledged.

    Attributes:
        acknowledged: event id -> version.
        failure: what no retry can help against; it has ended the writer.
    """

    def __init__(self, target: str, name: str) -> None:
        self.name = name
        self.acknowledged: dict[str, int] = {}
        self.failure: BaseException | None = None
        self._target = target
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"writer-{name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends after the edit in hand. Raises: what ended the writer before."""
        self._stopping.set()
        self._thread.join(RECOVERY_S)
        if self.failure is not None:
            raise self.failure

    def _run(self) -> None:
        number = 0
        try:
            with larimar.connect(self._target, timeout_s=TIMEOUT_S) as client:
                while not self._stopping.is_set():
                    try:
                        edit = self._edit(client, number)
                    except (Unavailable, DeadlineExceeded, Cancelled):
                        time.sleep(RETRY_PAUSE_S)
                        continue
                    except LarimarError as error:
                        if error.code != UNKNOWN:
                            raise
                        time.sleep(RETRY_PAUSE_S)
                        continue
                    self.acknowledged[f"{self.name}-{number}"] = edit.version
                    number += 1
        except BaseException as error:
            self.failure = error

    def _edit(self, client: larimar.Client, number: int) -> larimar.Edit:
        event_id = f"{self.name}-{number}"
        if number % FORGET_EVERY == FORGET_EVERY - 1:
            before = f"{self.name}-{(number - 1) % FACTS}"
            return client.forget(before, event_id=event_id, bank=BANK)
        return client.write(
            f"The keeper of lighthouse {self.name} {number} is",
            f"Marlo {number}",
            fact_id=f"{self.name}-{number % FACTS}",
            event_id=event_id,
            bank=BANK,
        )


@dataclasses.dataclass
class Found:
    """What some rounds have found; after them all but the first must be 0."""

    acknowledged: int = 0
    lost: int = 0
    """Acknowledged and not in the log at their version."""
    twice: int = 0
    """Events that have a second entry."""
    missing: int = 0
    """Versions without an entry."""
    wrong_facts: int = 0
    """Facts that are live and should not be, or the other way round, or at another version."""
    mismatches: int = 0
    """Replays that differ from what is served."""
    events: int = 0
    recovery_s: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    """By victim: seconds from the kill until all went on again."""

    def look(self, target: str, writers: list[Writer], at_rest: bool) -> None:
        """Compares the whole log with what the writers were told; see `compare`."""
        told = {
            event_id: version
            for writer in writers
            for event_id, version in dict(writer.acknowledged).items()
        }
        self.acknowledged = self.events = 0
        self.compare(target, BANK, told, at_rest)

    def compare(self, target: str, bank: str, told: dict[str, int], at_rest: bool) -> None:
        """Compares a bank's whole log with what was acknowledged, and adds what it finds.

        Args:
            told: event id -> version.
            at_rest: nobody edits any more: live facts are compared too.
        """
        with larimar.connect(target, timeout_s=RECOVERY_S) as client:
            events = list(client.events(bank))
            by_id = {event.event_id: event.version for event in events}
            versions = {event.version for event in events}
            self.acknowledged += len(told)
            self.events += len(events)
            self.lost += sum(by_id.get(event_id) != at for event_id, at in told.items())
            self.twice += len(events) - len(by_id)
            self.missing += max(versions, default=0) - len(versions)
            self.mismatches += not client.replay(bank).matches
            if at_rest:
                live: dict[str, int] = {}
                for event in events:
                    live.pop(event.fact_id, None)
                    if event.kind == "WRITE":
                        live[event.fact_id] = event.version
                served = {fact.fact_id: fact.version for fact in client.facts(bank)}
                self.wrong_facts += len(served.items() ^ live.items())


def victims(rng: random.Random, rounds: int) -> list[str]:
    """Whom the rounds kill: each of VICTIMS in turn, in an order that changes."""
    found: list[str] = list(FIRST_VICTIMS)
    while len(found) < rounds:
        found += rng.sample(VICTIMS, len(VICTIMS))
    return found[:rounds]


def killed(
    pipeline: OwnPipeline, rng: random.Random, rounds: int, told: Callable[[str], None]
) -> Found:
    """Some rounds on a pipeline that has no bank of the name BANK.

    Raises:
        Unavailable: a writer was not acknowledged, or a service not ready, within RECOVERY_S of a
            kill.
    """
    found = Found()
    with larimar.connect(pipeline.target, timeout_s=RECOVERY_S) as client:
        client.create_bank(BANK)
    writers = [Writer(pipeline.target, name) for name in "abc"[:WRITERS]]
    try:
        await_progress(writers, {writer.name: 0 for writer in writers})
        for number, victim in enumerate(victims(rng, rounds), start=1):
            time.sleep(rng.uniform(0.0, LONGEST_PAUSE_S))
            started = time.monotonic()
            pipeline.kill(victim)
            await_progress(writers, {one.name: len(one.acknowledged) for one in writers})
            pipeline.ready_pids()
            seconds = time.monotonic() - started
            found.recovery_s.setdefault(victim, []).append(seconds)
            told(f"round {number} of {rounds}: {victim}, {seconds:.1f} s")
            if number % CHECK_EVERY == 0:
                found.look(pipeline.target, writers, at_rest=False)
    finally:
        for writer in writers:
            writer.stop()
    found.look(pipeline.target, writers, at_rest=True)
    return found


def await_progress(writers: list[Writer], since: dict[str, int]) -> None:
    """Returns when every writer has two acknowledgements more than it had: the first may be of a
    call from before. Raises: Unavailable; what ended a writer."""
    deadline = time.monotonic() + RECOVERY_S
    for writer in writers:
        while len(writer.acknowledged) < since[writer.name] + 2:
            if writer.failure is not None:
                raise writer.failure
            if time.monotonic() > deadline:
                raise Unavailable(f"writer {writer.name} is not acknowledged any more", "STUCK")
            time.sleep(RETRY_PAUSE_S)


def run(
    quick: bool,
    use_ray: bool,
    told: Callable[[str], None],
    rounds: int | None = None,
    seed: int | None = None,
) -> Report:
    """Edits lost, events twice, versions missing and replays that differ: all to be 0.

    Raises: as `killed`.
    """
    rounds = rounds or (QUICK_ROUNDS if quick else ROUNDS)
    seed = random.SystemRandom().randrange(SEEDS) if seed is None else seed
    rng = random.Random(seed)
    ray_rounds = round(RAY_SHARE * rounds) if use_ray else 0
    told(f"seed {seed}")
    results = []
    for no_ray, count in ((True, rounds - ray_rounds), (False, ray_rounds)):
        if count:
            with own_pipeline(no_ray) as pipeline:
                results.append(killed(pipeline, rng, count, told))
    report = Report(
        {"rounds": rounds, "rounds_with_ray": ray_rounds, "writers": WRITERS, "seed": seed}
    )
    for name, found in zip(("processes", "Ray"), results):
        for victim in VICTIMS:
            if victim in found.recovery_s:
                what = f"{name}: {victim} killed, until all goes on"
                report.measure(what, "s", found.recovery_s[victim])
    for what, field in (
        ("events in the logs", "events"),
        ("edits acknowledged", "acknowledged"),
        ("acknowledged and lost", "lost"),
        ("events twice", "twice"),
        ("versions missing", "missing"),
        ("facts wrongly live or not", "wrong_facts"),
        ("replays that differ", "mismatches"),
    ):
        total = sum(getattr(found, field) for found in results)
        aim = None if field in ("events", "acknowledged") else Aim(0, at_least=False)
        report.compare(what, total, aim)
    return report
