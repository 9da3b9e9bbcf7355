"""Traces: spans of OpenTelemetry, and the W3C trace context that travels with every request.

A caller's trace context is passed on, and named in log lines, whether or not this pipeline
records spans. Spans are recorded where the settings name an endpoint or a file for them; else a
span costs a comparison. Attributes are numbers and ids; an exception's text is never recorded,
since it may quote a prompt.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from opentelemetry import context, trace
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from larimar.v1 import common_pb2
from services.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

EXPORT_EVERY_MS = 1000
"""Pause between two exports: a killed process loses the spans of so long."""
MAX_WAITING_SPANS = 8192
"""Spans that wait to be exported; more are dropped, and calls never wait for them."""

_W3C = TraceContextTextMapPropagator()
_tracer: Tracer | None = None


def start_tracing(service: str, settings: Settings) -> None:
    """Records spans in this process from now on, where the settings say where to."""
    global _tracer
    if not settings.otlp_endpoint and not settings.traces_file:
        return
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

    provider = TracerProvider(
        ParentBasedTraceIdRatio(settings.trace_sample),
        Resource(
            {"service.name": service, "service.namespace": "larimar", "process.pid": os.getpid()}
        ),
    )
    for exporter in _exporters(settings):
        provider.add_span_processor(
            BatchSpanProcessor(
                exporter,
                max_queue_size=MAX_WAITING_SPANS,
                schedule_delay_millis=EXPORT_EVERY_MS,
            )
        )
    _tracer = provider.get_tracer("larimar")


def _exporters(settings: Settings) -> Iterator[Any]:
    if settings.otlp_endpoint:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        yield OTLPSpanExporter(f"{settings.otlp_endpoint.rstrip('/')}/v1/traces")
    if settings.traces_file:
        yield _FileExporter(settings.traces_file)


class _FileExporter:
    """Appends spans to a file, a JSON line each; processes share the file."""

    def __init__(self, path: str) -> None:
        self._path = path

    def export(self, spans: Sequence[ReadableSpan]) -> Any:
        """Writes spans, in one write: lines of processes do not mix."""
        from opentelemetry.sdk.trace.export import SpanExportResult

        text = "".join(json.dumps(span_json(span)) + "\n" for span in spans)
        try:
            file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                os.write(file, text.encode())
            finally:
                os.close(file)
        except OSError:
            return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Nothing is held open."""

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Everything is written at once."""
        return True


def span_json(span: ReadableSpan) -> dict[str, Any]:
    """A span as a line of the traces file says it; times in nanoseconds since 1970."""
    own = span.get_span_context()
    assert own is not None and span.end_time is not None and span.start_time is not None
    return {
        "trace_id": trace.format_trace_id(own.trace_id),
        "span_id": trace.format_span_id(own.span_id),
        "parent_id": trace.format_span_id(span.parent.span_id) if span.parent else "",
        "service": span.resource.attributes["service.name"],
        "pid": span.resource.attributes["process.pid"],
        "name": span.name,
        "kind": span.kind.name.lower(),
        "start_unix_ns": span.start_time,
        "time_ms": (span.end_time - span.start_time) / 1e6,
        "status": span.status.description or "OK",
        "attributes": dict(span.attributes or {}),
        "links": [trace.format_trace_id(link.context.trace_id) for link in span.links],
    }


@contextlib.contextmanager
def serving(
    name: str,
    traceparent: str = "",
    tracestate: str = "",
    begins: bool = True,
    kind: SpanKind = SpanKind.SERVER,
    links: Sequence[Link] = (),
) -> Iterator[Span | None]:
    """Around a call that is served: its span, below the caller's where the caller has named one.

    Args:
        begins: whether a trace begins here where there is none yet.
        links: to spans of other traces.

    What runs in the block belongs to that span. The context is put back and not reset: the end of
    a stream may run in another task than its beginning.
    """
    if _tracer is None and not traceparent:
        yield None
        return
    before = parent = context.get_current()
    if traceparent:
        parent = _named(traceparent, tracestate)
    span = None
    if _tracer is not None and (begins or _is_in_trace(parent)):
        span = _started(name, kind, parent, links)
        parent = trace.set_span_in_context(span, parent)
    context.attach(parent)
    try:
        yield span
    finally:
        context.attach(before)
        if span is not None:
            span.end()


@contextlib.contextmanager
def calling(name: str, request: Any) -> Iterator[Span | None]:
    """Around a call of another service: its span, which the request's context then names."""
    current = context.get_current()
    if _tracer is None or not _is_in_trace(current):
        yield None
        return
    span = _started(name, SpanKind.CLIENT, current)
    below = trace.set_span_in_context(span)
    name_trace(request.context, below)
    try:
        yield span
    finally:
        span.end()


@contextlib.contextmanager
def consuming(name: str, makers: Sequence[tuple[str, str]]) -> Iterator[None]:
    """Around work on events, some of which name the trace in which they were made.

    Where all name the same one, the work goes on in it. Where they differ, it stays in its own
    trace, or begins one, and each event has a span in its maker's: what is done once for many can
    have one parent only. Spans of two traces are linked.

    Args:
        makers: of each event, its `traceparent` and `tracestate`; empty without one.
    """
    own = trace.get_current_span().get_span_context()
    found = dict.fromkeys(makers)
    others = [maker for maker in found if _trace_id(maker) not in (0, own.trace_id)]
    if len(found) == 1 and others:
        links = [Link(own)] if own.is_valid else []
        with serving(name, *others[0], kind=SpanKind.CONSUMER, links=links):
            yield
        return
    with contextlib.ExitStack() as around:
        if not own.is_valid:
            around.enter_context(serving(name, kind=SpanKind.CONSUMER))
        if _tracer is not None:
            links = [Link(trace.get_current_span().get_span_context())]
            for maker in others:
                around.callback(_started(name, SpanKind.CONSUMER, _named(*maker), links).end)
        yield


def end_with_error(span: Span | None, code: str) -> None:
    """Says in a span that its call failed, by a word."""
    if span is not None:
        span.set_status(Status(StatusCode.ERROR, code))


def past_span(
    name: str, started_s: float, ended_s: float, attributes: Mapping[str, int] | None = None
) -> None:
    """A span below the current one that is over. Times as `time.monotonic` says."""
    if _tracer is None or not trace.get_current_span().is_recording():
        return
    offset_ns = time.time_ns() - time.monotonic_ns()
    span = _tracer.start_span(
        name, attributes=attributes, start_time=int(started_s * 1e9) + offset_ns
    )
    span.end(int(ended_s * 1e9) + offset_ns)


def name_trace(
    call: common_pb2.CallContext, of: context.Context | None = None
) -> common_pb2.CallContext:
    """Puts the trace context of the current call, if it has one, into what is sent on."""
    fields: dict[str, str] = {}
    _W3C.inject(fields, of)
    call.traceparent = fields.get("traceparent", "")
    call.tracestate = fields.get("tracestate", "")
    return call


def trace_ids() -> tuple[str, str] | None:
    """Trace id and span id of the current call; None outside of a trace."""
    own = trace.get_current_span().get_span_context()
    if not own.is_valid:
        return None
    return trace.format_trace_id(own.trace_id), trace.format_span_id(own.span_id)


def _trace_id(maker: tuple[str, str]) -> int:
    """The trace that an event names; 0 where it names none."""
    return trace.get_current_span(_named(*maker)).get_span_context().trace_id


def _is_in_trace(of: context.Context) -> bool:
    return trace.get_current_span(of).get_span_context().is_valid


def _named(traceparent: str, tracestate: str) -> context.Context:
    """The trace context that these name; one outside of any trace where they are malformed."""
    return _W3C.extract({"traceparent": traceparent, "tracestate": tracestate}, context.Context())


def _started(
    name: str, kind: SpanKind, parent: context.Context, links: Sequence[Link] = ()
) -> Span:
    assert _tracer is not None
    return _tracer.start_span(name, parent, kind, links=links)
