"""What is watched while a load runs: memory of every process, and what the services count."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SAMPLE_S = 1.0
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
STAGES, LAG = "larimar_stage_seconds", "larimar_follower_lag_versions"
SCRAPE_TIMEOUT_S = 10.0
QUANTILES = (0.5, 0.95, 0.99)


class Memory:
    """Resident bytes of each process of a pipeline over time; pages that are shared count in each.

    Attributes:
        points: seconds since the load began, name of the process's service, bytes.
    """

    def __init__(self, pids: Callable[[], list[int]]) -> None:
        self.points: list[tuple[float, str, int]] = []
        self._pids = pids
        self._stopping = threading.Event()
        self._started = time.monotonic()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopping.set()
        self._thread.join()

    def largest(self) -> dict[str, int]:
        """The most bytes that each service held, and all together ("all")."""
        most: dict[str, int] = defaultdict(int)
        for _, name, size in [*self.points, *self.totals()]:
            most[name] = max(most[name], size)
        return dict(most)

    def totals(self) -> list[tuple[float, str, int]]:
        """Points of all processes together."""
        together: dict[float, int] = defaultdict(int)
        for at_s, _, size in self.points:
            together[at_s] += size
        return [(at_s, "all", size) for at_s, size in sorted(together.items())]

    def _run(self) -> None:
        while not self._stopping.is_set():
            at_s = time.monotonic() - self._started
            held: dict[str, int] = defaultdict(int)
            for pid in self._pids():
                with contextlib.suppress(OSError, IndexError):
                    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                    held[service_of(pid)] += pages * PAGE_BYTES
            self.points += [(at_s, name, size) for name, size in held.items()]
            self._stopping.wait(SAMPLE_S)


def service_of(pid: int) -> str:
    """The service that a process is of: its name, "store", or "other"."""
    line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    if "appendonly" in line or "valkey-server" in line or "redis-server" in line:
        return "store"
    for name in ("encoder", "scope", "memory", "decoder", "gateway"):
        if f"services.run {name}" in line or f":{name}" in line.casefold():
            return name
    return "other"


Counts = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scraped(port: int) -> Counts:
    """What a pipeline counts, by name and labels; nothing where it has no /metrics."""
    if not port:
        return {}
    from prometheus_client.parser import text_string_to_metric_families

    try:
        with urllib.request.urlopen(
            f"http://127.0.0.1:{port}/metrics", timeout=SCRAPE_TIMEOUT_S
        ) as answer:
            text = answer.read().decode()
    except (OSError, urllib.error.URLError):
        return {}
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def histograms(before: Counts, after: Counts, name: str) -> Iterator[dict[str, Any]]:
    """What came to a histogram between two scrapes, for each of its labels."""
    found: dict[tuple, dict[str, Any]] = defaultdict(lambda: {"buckets": {}})
    for (sample, labels), value in after.items():
        more = value - before.get((sample, labels), 0.0)
        kept = tuple(pair for pair in labels if pair[0] != "le")
        if sample == f"{name}_bucket":
            found[kept]["buckets"][float(dict(labels)["le"])] = more
        elif sample in (f"{name}_sum", f"{name}_count"):
            found[kept][sample.rpartition("_")[2]] = more
    for labels, one in sorted(found.items()):
        if one.get("count", 0) > 0:  # less where a process began to count anew
            quantiles = {f"p{round(100 * q)}": quantile(one["buckets"], q) for q in QUANTILES}
            yield {**dict(labels), "count": one["count"], "sum": one["sum"], **quantiles}


def quantile(buckets: dict[float, float], q: float) -> float:
    """The upper end of the bucket in which a quantile lies; of the last one, its lower end."""
    ends = sorted(buckets)
    wanted, below = q * buckets[ends[-1]], 0.0
    for end in ends:
        if buckets[end] >= wanted:
            return below if end == float("inf") else end
        below = end
    return below
