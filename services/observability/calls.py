"""Calls: how each is counted, timed and traced by the service that makes it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import Any

import grpc

from larimar.errors import LarimarError
from services.observability import traces
from services.observability.metrics import HOP_SECONDS

_CODES = {code.value[0]: code.name for code in grpc.StatusCode}


def code_name(code: int) -> str:
    """The name of a gRPC status code, for its number."""
    return _CODES[code]


def span_name(service: str, method: str) -> str:
    """What a call's spans are called, as OpenTelemetry wants it: larimar.v1.Encoder/Encode."""
    noun = "larimar" if service == "gateway" else service
    return f"larimar.v1.{noun.capitalize()}/{method}"


def code_of(error: BaseException | None) -> str:
    """The gRPC status code that a call ended with, by its name."""
    if error is None:
        return "OK"
    if isinstance(error, LarimarError):
        return _CODES[error.code]
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return "CANCELLED"
    return "DEADLINE_EXCEEDED" if isinstance(error, TimeoutError) else "INTERNAL"


@contextlib.contextmanager
def calling(service: str, method: str, request: Any) -> Iterator[None]:
    """Around a call of another service through a door."""
    started = time.monotonic()
    with traces.calling(span_name(service, method), request) as span:
        try:
            yield
        except (Exception, asyncio.CancelledError) as error:
            traces.end_with_error(span, code_of(error))
            raise
        finally:
            HOP_SECONDS.labels(service, method).observe(time.monotonic() - started)
