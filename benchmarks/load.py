"""A pipeline under load: many clients, most of them asking, over ten banks.

steady     closed loop: 64 clients, a call each at a time
kill       the same, while each service, the store and the whole tree are SIGKILLed in turn, and
           every process is replaced by `larimar redeploy`, where that is there
overload   open loop at a multiple of the rate that the closed loop keeps up, then the way back
sweep      the closed loop at growing numbers of clients, and of replicas where Ray has them

However it goes, what was acknowledged is then looked up in the logs: there, once, at its version,
in its client's order, with no version missing; and what is served is compared with a replay.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import random
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import larimar
from benchmarks import dashboard, prometheus
from benchmarks.chaos import RECOVERY_S, SEEDS, Found, OwnPipeline, settings_file
from benchmarks.load_clients import (
    Books,
    Door,
    GrpcDoor,
    HttpDoor,
    LoadClient,
    closed_loop,
    open_loop,
)
from benchmarks.load_report import LoadReport, draw
from benchmarks.load_watch import Memory, scraped
from benchmarks.texts import made_up_facts
from larimar.cli import pipeline as pipeline_commands
from larimar.cli import processes
from larimar.errors import FailedPrecondition, LarimarError

BANKS, QUICK_BANKS = 10, 2
FACTS, QUICK_FACTS = 50, 6
"""Facts that a bank holds when the load begins."""
CLIENTS, QUICK_CLIENTS = 64, 6
SECONDS, QUICK_SECONDS = 300.0, 3.0
WARM_S, QUICK_WARM_S = 20.0, 1.0
"""Load before what is measured: pages, caches and compiled steps come in."""
SWEPT_CLIENTS, QUICK_SWEPT = (1, 2, 4, 8, 16, 32, 64, 128), (1, 2)
SWEPT_REPLICAS = (1, 2)
SWEPT_SERVICES = ("encoder", "scope", "memory", "decoder", "gateway")
VICTIMS = ("encoder", "scope", "memory", "decoder", "gateway", "store", "tree")
REDEPLOY = "redeploy"
PROBE_PAUSE_S = 0.2
PROBES = 5
"""Answers in a row, each within PROBE_SLOWER of the slow ones before, after which it is well."""
PROBE_SLOWER = 2.0
PROBE_BANK = "load-0"


@dataclass
class Load:
    """A pipeline, what is in it, and what a load of it has come to so far.

    Attributes:
        disturbed: (seconds since the load began, what was done), as it was done.
    """

    pipeline: OwnPipeline
    http_port: int
    over_http: bool
    banks: list[str]
    facts: list[dict[str, str]]
    seed: int
    books: Books = field(default_factory=Books)
    found: Found = field(default_factory=Found)
    disturbed: list[tuple[float, str]] = field(default_factory=list)
    loops: int = 0

    def clients(self, count: int) -> list[LoadClient]:
        """New clients, whose names nobody had before."""
        self.loops += 1
        return [
            LoadClient(
                f"r{self.loops}c{number}",
                self._door(),
                self.banks,
                self.facts,
                self.books,
                self.seed,
            )
            for number in range(count)
        ]

    async def closed(self, count: int, seconds: float) -> None:
        """A closed loop of so many clients."""
        await closed_loop(self.clients(count), seconds)

    async def opened(self, count: int, rate: float, seconds: float) -> None:
        """An open loop at a rate, over the connections of so many clients."""
        await open_loop(self.clients(count), rate, seconds)

    def check(self) -> None:
        """Compares every bank's log, and what is served, with what was acknowledged."""
        for bank in self.banks:
            told = self.books.acknowledged.get(bank, {})
            self.found.compare(self.pipeline.target, bank, told, at_rest=True)

    def _door(self) -> Door:
        if self.over_http:
            return HttpDoor("127.0.0.1", self.http_port)
        return GrpcDoor(self.pipeline.target)


def run(
    quick: bool,
    use_ray: bool,
    told: Callable[[str], None],
    *,
    minutes: float | None = None,
    clients: int | None = None,
    kill: bool = False,
    overload: float | None = None,
    sweep: bool = False,
    over_http: bool = False,
    seed: int | None = None,
    drawn: Path | None = None,
) -> LoadReport:
    """Latency, errors and throughput of a mode; edits lost or out of order are to be 0.

    Args:
        drawn: a PNG file for the dashboard, as a Prometheus server beside the pipeline has it.

    Raises:
        FailedPrecondition: NO_HTTP, this version has no HTTP port; NO_PROMETHEUS, the dashboard is
            asked for where Prometheus is not installed.
    """
    seconds = 60.0 * minutes if minutes else QUICK_SECONDS if quick else SECONDS
    count = clients or (QUICK_CLIENTS if quick else CLIENTS)
    seed = random.SystemRandom().randrange(SEEDS) if seed is None else seed
    told(f"seed {seed}")
    setting = {"seconds": seconds, "clients": count, "seed": seed, "ray": use_ray}
    setting |= {"over": "HTTP" if over_http else "gRPC", "banks": QUICK_BANKS if quick else BANKS}
    report = LoadReport(setting)
    if sweep:
        setting |= {"mode": "sweep"}
        _swept(report, quick, use_ray, over_http, seconds, seed, told)
        return report
    mode = "kill" if kill else "overload" if overload else "steady"
    setting |= {"mode": mode} | ({"overload": overload} if overload else {})
    with loaded(quick, use_ray, over_http, seed) as load:
        asyncio.run(load.closed(count, QUICK_WARM_S if quick else WARM_S))
        load.books = Books(acknowledged=load.books.acknowledged)
        before = scraped(load.http_port)
        with _watched(load, drawn, told), Memory(lambda: load.pipeline.pids) as memory:
            if overload:
                _overloaded(load, report, count, overload, seconds, told)
            elif kill:
                _killed(load, count, seconds, told)
            else:
                asyncio.run(load.closed(count, seconds))
        report.take_books(load.books)
        if not kill:  # a process that was killed has lost its counts
            report.take_metrics(before, scraped(load.http_port))
        report.take_memory(memory)
        told("looking up what was acknowledged")
        load.check()
        report.take_found(load.found, load.books)
        report.take_disturbances(load.disturbed)
    return report


def plot(document: dict[str, Any], path: Path) -> None:
    """Draws throughput, and where the time goes."""
    draw(document, path)


@contextlib.contextmanager
def _watched(load: Load, drawn: Path | None, told: Callable[[str], None]) -> Iterator[None]:
    """Scrapes the pipeline meanwhile, and draws the dashboard at the end, if that is asked for."""
    if drawn is None:
        yield
        return
    folder = Path(tempfile.mkdtemp(prefix="larimar-prometheus-"))
    try:
        with prometheus.scraping(load.http_port, folder) as server:
            begun = time.time()
            yield
            drawn.parent.mkdir(parents=True, exist_ok=True)
            empty = dashboard.render(server, begun, time.time(), drawn)
        told(f"wrote {drawn}" + (f"; without data: {', '.join(empty)}" if empty else ""))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def loaded(
    quick: bool, use_ray: bool, over_http: bool, seed: int, **settings: Any
) -> Iterator[Load]:
    """A pipeline of its own with filled banks; nothing of it is left at the end."""
    folder = Path(tempfile.mkdtemp(prefix="larimar-load-"))
    http_port = free_port() if has_http() else 0
    if over_http and not http_port:
        raise FailedPrecondition("this version has no HTTP port", "NO_HTTP")
    options = ("--http-port", str(http_port)) if http_port else ()
    pipeline = OwnPipeline(folder, not use_ray, *options)
    banks = [f"load-{number}" for number in range(QUICK_BANKS if quick else BANKS)]
    facts = made_up_facts(QUICK_FACTS if quick else FACTS)
    try:
        with settings_file(folder, **settings):
            pipeline.start()
            _fill(pipeline.target, banks, facts)
            yield Load(pipeline, http_port, over_http, banks, facts, seed)
    finally:
        pipeline.stop()
        shutil.rmtree(folder, ignore_errors=True)


def has_http() -> bool:
    """Whether `larimar up` opens an HTTP port."""
    return "http_port" in inspect.signature(pipeline_commands.up).parameters


def free_port() -> int:
    """A port that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _fill(target: str, banks: list[str], facts: list[dict[str, str]]) -> None:
    with larimar.connect(target, timeout_s=RECOVERY_S) as client:
        for bank in banks:
            client.create_bank(bank)
            for result in client.write_many(facts, bank=bank):
                if isinstance(result, larimar.FailedWrite):
                    raise result.error


def _killed(load: Load, count: int, seconds: float, told: Callable[[str], None]) -> None:
    """A closed loop while somebody kills each process in turn, and then replaces all in order."""
    victims = [*VICTIMS, *([REDEPLOY] if hasattr(processes, "redeploy") else [])]
    failures: list[BaseException] = []

    def disturb() -> None:
        begun = load.books.started
        try:
            for number, victim in enumerate(victims):
                wait_s = begun + seconds * (number + 0.5) / len(victims) - time.monotonic()
                time.sleep(max(0.0, wait_s))
                load.disturbed.append((time.monotonic() - begun, victim))
                told(f"{victim}, {load.disturbed[-1][0]:.0f} s after the start")
                _disturb(load.pipeline, victim)
                load.pipeline.ready_pids()
        except BaseException as error:
            failures.append(error)

    hand = threading.Thread(target=disturb, daemon=True)
    hand.start()
    asyncio.run(load.closed(count, seconds))
    hand.join(RECOVERY_S * len(victims))
    if failures:
        raise failures[0]


def _disturb(pipeline: OwnPipeline, victim: str) -> None:
    if victim == REDEPLOY:
        redeploy: Callable[..., Any] = vars(processes)[REDEPLOY]
        redeploy(pipeline.folder, {})
    else:
        pipeline.kill(victim)


def _overloaded(
    load: Load,
    report: LoadReport,
    count: int,
    times: float,
    seconds: float,
    told: Callable[[str], None],
) -> None:
    """A third of the time as fast as it goes, then at a multiple of that, then until it is well."""
    asyncio.run(load.closed(count, seconds / 3))
    answered = [one for one in load.books.samples if not one.code]
    rate = len(answered) / (seconds / 3)
    slow_s = sorted(one.seconds for one in answered if one.kind == "ask")[-1 - len(answered) // 20]
    told(f"{rate:.1f} calls/s are kept up; now {times:g} times as many")
    load.disturbed.append((time.monotonic() - load.books.started, f"{times:g} times the rate"))
    asyncio.run(load.opened(count, times * rate, seconds * 2 / 3))
    load.disturbed.append((time.monotonic() - load.books.started, "over"))
    recovery_s = recovered_s(load.pipeline.target, load.facts, PROBE_SLOWER * slow_s)
    report.take_overload(load.books, seconds / 3, rate, recovery_s)


def recovered_s(target: str, facts: list[dict[str, str]], within_s: float) -> float:
    """Seconds until several questions in a row are answered in time. Raises: LarimarError."""
    begun, well = time.monotonic(), 0
    with larimar.connect(target, timeout_s=RECOVERY_S) as client:
        while True:
            asked = time.monotonic()
            with contextlib.suppress(LarimarError):
                client.ask(facts[0]["prompt"], bank=PROBE_BANK, max_tokens=4)
                well = well + 1 if time.monotonic() - asked <= within_s else 0
            if well == PROBES:
                return time.monotonic() - begun
            if time.monotonic() - begun > RECOVERY_S:
                raise LarimarError("it has not recovered", "STUCK")
            time.sleep(PROBE_PAUSE_S)


def _swept(
    report: LoadReport,
    quick: bool,
    use_ray: bool,
    over_http: bool,
    seconds: float,
    seed: int,
    told: Callable[[str], None],
) -> None:
    """Throughput at each number of clients, and of replicas, on a pipeline of its own each."""
    counts = QUICK_SWEPT if quick else SWEPT_CLIENTS
    for replicas in SWEPT_REPLICAS if use_ray else (1,):
        services = {name: {"replicas": replicas} for name in SWEPT_SERVICES} if use_ray else {}
        with loaded(quick, use_ray, over_http, seed, **services) as load:
            asyncio.run(load.closed(counts[-1], QUICK_WARM_S if quick else WARM_S))
            for count in counts:
                told(f"{count} clients, {replicas} replicas")
                load.books = Books(acknowledged=load.books.acknowledged)
                before = scraped(load.http_port)
                asyncio.run(load.closed(count, seconds / len(counts)))
                report.take_point(count, replicas, load.books, seconds / len(counts))
                report.take_metrics(
                    before, scraped(load.http_port), clients=count, replicas=replicas
                )
            load.check()
            report.take_found(load.found, load.books, f", {replicas} replicas")
