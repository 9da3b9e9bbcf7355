"""Stages of a call: each is timed, and a span of the call's trace where there is one."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from services.observability import traces
from services.observability.metrics import observe_stage


def passed(name: str, started_s: float, ended_s: float, **attributes: int) -> None:
    """Notes a stage that is over, in the context of its call.

    Args:
        started_s, ended_s: as `time.monotonic` says.
        attributes: of the span; numbers, never texts.
    """
    observe_stage(name, ended_s - started_s)
    traces.past_span(name, started_s, ended_s, attributes)


class stage:
    """A block that is a stage: ``with stage("read"): ...``"""

    __slots__ = ("_attributes", "_name", "_started_s")

    def __init__(self, name: str, **attributes: int) -> None:
        self._name = name
        self._attributes = attributes

    def __enter__(self) -> Self:
        self._started_s = time.monotonic()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        passed(self._name, self._started_s, time.monotonic(), **self._attributes)
