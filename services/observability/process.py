"""A process of the pipeline begins to say what it does."""

from __future__ import annotations

from larimar import __version__
from services.observability.logs import start_logging
from services.observability.metrics import process_started
from services.observability.traces import start_tracing
from services.settings import Settings


def observe_process(service: str, settings: Settings) -> None:
    """Starts logs, traces and metrics of a service's process."""
    start_logging(service, settings)
    start_tracing(service, settings)
    process_started(service, __version__)
