"""Services as they are observed: every call counted, timed, traced, and logged at level info."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from larimar.errors import LarimarError
from services.contracts import methods_of
from services.observability import traces
from services.observability.calls import code_of, span_name
from services.observability.logs import get_logger
from services.observability.metrics import (
    CALL_SECONDS,
    CALLS,
    CALLS_IN_PROGRESS,
    INTERNAL_ERRORS,
)

NAME = "larimar.calls"
PROBE = "GetStatus"
"""What supervisors and probes ask all the time: no news in the log."""
INTERNAL = frozenset({"INTERNAL", "DATA_LOSS"})
"""Codes that are never a caller's fault, nor a fault that passes."""
UNTRACED = frozenset({PROBE, "Watch"})
"""What no trace begins with: probes, and a stream that may go on for days."""
log, levels = get_logger(NAME), logging.getLogger(NAME)


class Observed:
    """A service, every call of which is counted, timed, traced, and logged at level info.

    Whoever calls it, through a socket, a handle or as an object, meets the same methods. Whatever
    else is asked of it, or set, is the service's own.
    """

    def __init__(self, name: str, service: Any) -> None:
        own = vars(self)
        own["_service"] = service
        for method, streams in methods_of(name).items():
            measured = _Measured(name, method)
            call = getattr(service, method)
            own[method] = (_stream if streams else _single)(measured, call)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._service, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._service, name, value)


def _single(measured: _Measured, call: Any):
    async def single(request, grpc_context=None):
        with measured.served(request, grpc_context):
            return await call(request, grpc_context)

    return single


def _stream(measured: _Measured, call: Any):
    async def stream(request, grpc_context=None) -> AsyncIterator[Any]:
        with measured.served(request, grpc_context) as ending:
            async with contextlib.aclosing(call(request, grpc_context)) as replies:
                async for reply in replies:
                    ending.complete = bool(getattr(reply, "finish_reason", ""))
                    yield reply

    return stream


class _Ending:
    """How a call is about to end."""

    complete = False
    """Whether a stream has said its last message: who leaves then has cancelled nothing."""


class _Measured:
    """What is measured of a method."""

    def __init__(self, service: str, method: str) -> None:
        self._service, self._method = service, method
        self._span = span_name(service, method)
        self._begins = service == "gateway" and method not in UNTRACED
        self._in_progress = CALLS_IN_PROGRESS.labels(service)
        self._internal_errors = INTERNAL_ERRORS.labels(service)

    @contextlib.contextmanager
    def served(self, request: Any, grpc_context: Any) -> Iterator[_Ending]:
        """Around a call."""
        ending, failure = _Ending(), None
        started = time.monotonic()
        self._in_progress.inc()
        caller = _caller(request, grpc_context)
        with traces.serving(self._span, *caller, begins=self._begins) as span:
            try:
                yield ending
            except BaseException as error:
                failure = None if ending.complete and code_of(error) == "CANCELLED" else error
                raise
            finally:
                self._in_progress.dec()
                code, seconds = code_of(failure), time.monotonic() - started
                CALL_SECONDS.labels(self._service, self._method).observe(seconds)
                CALLS.labels(self._service, self._method, code).inc()
                if code in INTERNAL:
                    self._internal_errors.inc()
                if failure is not None:
                    traces.end_with_error(span, code)
                self._say(code, seconds, failure)

    def _say(self, code: str, seconds: float, failure: BaseException | None) -> None:
        news = self._service == "gateway" and self._method != PROBE
        level = logging.INFO if news else logging.DEBUG
        if levels.isEnabledFor(level):
            reason = {"reason": failure.reason} if isinstance(failure, LarimarError) else {}
            fields = {"method": self._method, "code": code, "time_ms": round(1000 * seconds, 3)}
            log.log(level, "call", **fields, **reason)


def _caller(request: Any, grpc_context: Any) -> tuple[str, str]:
    """The trace context that came with a call: in its request, or in its metadata."""
    inner = getattr(request, "context", None)
    if inner is not None:
        return inner.traceparent, inner.tracestate
    found = {"traceparent": "", "tracestate": ""}
    metadata = getattr(grpc_context, "invocation_metadata", tuple)()
    for key, value in metadata or ():
        if key in found:
            found[key] = value
    return found["traceparent"], found["tracestate"]
