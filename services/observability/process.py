"""A process of the pipeline begins to say what it does."""

from __future__ import annotations

from larimar import __version__
from larimar.errors import InvalidArgument
from services.observability.logs import LEVELS, start_logging
from services.observability.metrics import process_started
from services.observability.traces import start_tracing
from services.settings import Settings


def check_observing(settings: Settings) -> None:
    """Raises: InvalidArgument, BAD_SETTINGS, when a setting of logs or traces means nothing."""
    if settings.log_level not in LEVELS:
        raise InvalidArgument(
            f"log_level is {settings.log_level!r}: it is one of {', '.join(LEVELS)}", "BAD_SETTINGS"
        )
    if not 0.0 <= settings.trace_sample <= 1.0:
        raise InvalidArgument(
            f"trace_sample is {settings.trace_sample}: it is a share, 0 to 1", "BAD_SETTINGS"
        )


def observe_process(service: str, settings: Settings) -> None:
    """Starts logs, traces and metrics of a service's process."""
    start_logging(service, settings)
    start_tracing(service, settings)
    process_started(service, __version__)
