"""What Prometheus scrapes: the numbers of all processes of this machine, added up."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from prometheus_client import REGISTRY, CollectorRegistry, generate_latest, values
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from services.private import alive

PREFIX = "larimar_"
"""What our metrics begin with; libraries in our processes have others."""
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_STARTED = "larimar_process_start_time_seconds"


def exposition(folder: Path | None = None, more: Iterable[Metric] = ()) -> bytes:
    """All metrics in Prometheus' text format.

    Where this process keeps its numbers to itself, these are all.

    Args:
        folder: where the processes of the pipeline keep theirs; None takes this process alone.
        more: metrics that were just looked up.
    """
    alone = values.ValueClass is values.MutexValue
    return generate_latest(registry_of(None if alone else folder, more))


def registry_of(folder: Path | None, more: Iterable[Metric] = ()) -> CollectorRegistry:
    """All metrics, looked up when they are asked for; arguments as of `exposition`."""
    registry = CollectorRegistry()
    registry.register(_Ours(folder, more))
    return registry


class _Ours:
    """Our metrics and no others."""

    def __init__(self, folder: Path | None, more: Iterable[Metric]) -> None:
        self._folder = folder
        self._more = more

    def describe(self) -> list[Metric]:
        """Nothing is collected when this is registered."""
        return []

    def collect(self) -> Iterator[Metric]:
        """See Collector of prometheus_client."""
        if self._folder is None:
            found: Iterable[Metric] = REGISTRY.collect()
        else:
            _forget_the_dead(self._folder)
            found = MultiProcessCollector(None, str(self._folder)).collect()
        for metric in found:
            if metric.name == _STARTED:
                yield from _processes(metric)
            elif metric.name.startswith(PREFIX):
                yield metric
        yield from self._more


def _forget_the_dead(folder: Path) -> None:
    """Removes what ended processes said of their present; their counters stay."""
    pids = {path.stem.rpartition("_")[2] for path in folder.glob("gauge_live*.db")}
    for pid in pids:
        if not alive(int(pid)):
            with contextlib.suppress(FileNotFoundError):  # another gateway was faster
                mark_process_dead(pid, str(folder))


def _processes(started: Metric) -> Iterator[Metric]:
    """Per service: processes, start of the newest, resident bytes."""
    count, newest, resident = Counter[str](), dict[str, float](), Counter[str]()
    for sample in started.samples:
        service = sample.labels["service"]
        count[service] += 1
        newest[service] = max(newest.get(service, 0.0), sample.value)
        resident[service] += _resident_bytes(sample.labels.get("pid", str(os.getpid())))
    shown = {
        _STARTED: (started.documentation, newest),
        "larimar_processes": ("Processes of a service that run.", count),
        "larimar_process_resident_bytes": ("Memory that a service's processes hold.", resident),
    }
    for name, (says, by_service) in shown.items():
        family = GaugeMetricFamily(name, says, labels=["service"])
        for service, value in sorted(by_service.items()):
            family.add_metric([service], value)
        yield family


def _resident_bytes(pid: str) -> int:
    """Of a process, pages that it shares counted too; 0 where /proc does not say (Linux does)."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return 0
