"""The condition of a pipeline, as it is looked up when somebody asks for the metrics."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from typing import Any

from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from larimar.errors import LarimarError
from larimar.v1 import larimar_pb2
from services.inbox import Inbox
from services.observability.scrape import exposition
from services.redis_calls import RedisCalls
from services.redis_facts import StoreFacts, store_facts
from services.settings import Settings

STORE_GAUGES = {
    "larimar_store_uptime_seconds": ("Time since the store was started.", "uptime_s"),
    "larimar_store_used_bytes": ("Memory that the store's data takes.", "used_bytes"),
    "larimar_store_limit_bytes": ("The store's memory limit; 0 is none.", "limit_bytes"),
    "larimar_store_file_bytes": ("Size of the store's append-only file.", "file_bytes"),
    "larimar_store_writes": ("1 while the store can write its append-only file.", "writes"),
    "larimar_store_rewrites": ("1 while the store can rewrite it.", "rewrites"),
    "larimar_store_replicas": ("Replicas of the store that are connected.", "replicas"),
}
"""Metric, what it says, and field of StoreFacts."""


class Condition:
    """Tells the metrics of a pipeline; bound to one event loop.

    Args:
        gateway: asked how the services are.
    """

    def __init__(self, gateway: Any, inbox: Inbox, settings: Settings) -> None:
        self._gateway = gateway
        self._inbox = inbox
        self._settings = settings
        self._calls = RedisCalls(settings.redis_url)

    async def exposition(self) -> bytes:
        """All metrics, in Prometheus' text format."""
        found = await asyncio.gather(self._services(), self._store(), self._queues())
        more = [*self._disk(), *(one for group in found for one in group)]
        return await asyncio.to_thread(exposition, self._settings.metrics_folder, more)

    async def close(self) -> None:
        """Ends all connections."""
        await self._calls.close()

    async def _services(self) -> list[Metric]:
        status = await self._gateway.GetStatus(larimar_pb2.GetStatusRequest(), None)
        ready = GaugeMetricFamily(
            "larimar_service_ready", "1 while a service answers.", labels=["service"]
        )
        for one in status.services:
            ready.add_metric([one.name], one.ready)
        return [ready]

    async def _store(self) -> list[Metric]:
        up = "larimar_store_up", "1 while the store answers."
        try:
            facts = await store_facts(self._calls)
        except LarimarError:
            return [GaugeMetricFamily(*up, value=0)]
        return [GaugeMetricFamily(*up, value=1), *_store_gauges(facts)]

    async def _queues(self) -> Sequence[Metric]:
        entries = letters = 0
        waited_s = 0.0
        try:
            for tenant in self._settings.inbox_tenants:
                entries += await self._inbox.length(tenant)
                waited_s = max(waited_s, await self._inbox.waited_s(tenant))
                letters += (await self._inbox.letters(tenant, "", 1))[1]
        except LarimarError:
            return []
        return [
            GaugeMetricFamily("larimar_inbox_entries", "Inbox entries that wait.", value=entries),
            GaugeMetricFamily(
                "larimar_inbox_oldest_seconds",
                "Time that the oldest inbox entry has waited; 0 without one.",
                value=waited_s,
            ),
            GaugeMetricFamily("larimar_dead_letters", "Dead letters.", value=letters),
        ]

    def _disk(self) -> list[Metric]:
        disk = shutil.disk_usage(self._settings.data_dir)
        return [
            GaugeMetricFamily(
                "larimar_disk_free_bytes", "Free bytes where the data directory is.", disk.free
            ),
            GaugeMetricFamily("larimar_disk_size_bytes", "Bytes of that file system.", disk.total),
        ]


def _store_gauges(facts: StoreFacts) -> list[Metric]:
    return [
        GaugeMetricFamily(name, says, value=float(getattr(facts, field)))
        for name, (says, field) in STORE_GAUGES.items()
    ]
