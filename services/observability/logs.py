"""Logs: lines of JSON with the ids of the trace that they belong to.

A logger's line is a sentence for people, with its ids as fields besides. What a process says goes
to logs/SERVICE.jsonl in the data directory, warnings to its standard error too. An unexpected
error's type and place are logged, and not its text, which may quote a prompt.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import traceback
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import IO, Any

import structlog
from structlog.typing import EventDict

from services.observability.traces import trace_ids
from services.settings import Settings

FOLDER = "logs"
"""Of the data directory."""
MAX_LOG_BYTES = 32 * 2**20
"""Bytes of a log file after which it is moved aside; one older file is kept."""
LEVELS = ("debug", "info", "warning", "error")
"""What `log_level` may be."""

structlog.configure(
    processors=[
        structlog.stdlib.filter_by_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.stdlib.render_to_log_kwargs,
    ],
    wrapper_class=structlog.stdlib.BoundLogger,
    logger_factory=structlog.stdlib.LoggerFactory(),
)


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """The logger of a name, `larimar.` and the part of the pipeline it speaks of."""
    return structlog.stdlib.get_logger(name)


def start_logging(service: str, settings: Settings, plain: bool = False) -> None:
    """Sends the logs of this process to where they belong.

    Args:
        plain: whether a person reads the standard error: sentences there, and no JSON.
    """
    folder = Path(settings.data_dir) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    lines = _formatter(service)
    file = _LogFile(folder / f"{service}.jsonl")
    file.setFormatter(lines)
    shown = logging.StreamHandler(sys.stderr)
    shown.setLevel(logging.WARNING)
    if not plain:
        shown.setFormatter(lines)
    logging.basicConfig(level=logging.WARNING, handlers=[file, shown], force=True)
    logging.getLogger("larimar").setLevel(settings.log_level.upper())


class _LogFile(WatchedFileHandler):
    """A log file that processes share, moved aside when it is long."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, delay=True, encoding="utf-8")

    def _open(self) -> IO[str]:
        return open(self.baseFilename, "a", encoding="utf-8", opener=_private)

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a line."""
        with contextlib.suppress(OSError):
            if os.stat(self.baseFilename).st_size > MAX_LOG_BYTES:
                os.replace(self.baseFilename, f"{self.baseFilename}.1")
        super().emit(record)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _formatter(service: str) -> logging.Formatter:
    def name_process(logger: Any, method: str, line: EventDict) -> EventDict:
        ids = trace_ids()
        if ids is not None:
            line["trace_id"], line["span_id"] = ids
        line["service"], line["pid"] = service, os.getpid()
        line.pop("_ray_timestamp_ns", None)  # which Ray adds to every record of a replica
        return line

    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.ExtraAdder(),
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper("iso"),
            name_process,
        ],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            _without_text,
            structlog.processors.JSONRenderer(),
        ],
    )


def _without_text(logger: Any, method: str, line: EventDict) -> EventDict:
    """An error as its type and where it was raised."""
    raised = line.pop("exc_info", None)
    error = raised[1] if isinstance(raised, tuple) else raised
    if isinstance(error, BaseException):
        frames = traceback.extract_tb(error.__traceback__)
        line["error"] = type(error).__name__
        line["raised_at"] = [f"{Path(one.filename).name}:{one.lineno} {one.name}" for one in frames]
    return line
