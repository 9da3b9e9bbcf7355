"""Events that name the trace in which they were made: it goes on, whichever way they come."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from larimar.edit_events import from_json, parse_edit
from larimar.v1 import larimar_pb2 as pb
from services.gateway.consumer import InboxConsumer
from services.gateway.http.app import build_app
from services.gateway.http.cloud_events import BATCH, STRUCTURED
from services.inbox import MemoryInbox
from services.observability import traces
from services.observability.serving import Observed
from services.settings import Settings
from tests.events import event_json, eventually
from tests.gateway_calls import FACTS, facts
from tests.in_process import Door, Pipeline

TRACE, OTHER, SPAN = (
    "4bf92f3577b34da6a3ce929d0e0e4736",
    "0af7651916cd43dd8448eb211c80319c",
    "00f067aa0ba902b7",
)
PARENT = f"00-{TRACE}-{SPAN}-01"
Found = list[tuple[str, str]]


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """What this process records from now on."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(traces, "_tracer", provider.get_tracer("tests"))
    yield exporter
    provider.shutdown()


@pytest.fixture
def appends() -> Found:
    """The trace contexts of the appends that memory was asked for."""
    return []


@pytest.fixture
def gateway(pipeline: Pipeline, appends: Found) -> Any:
    async def appended(request, call) -> Any:
        appends.append((request.context.traceparent, request.context.tracestate))
        return await call(request)

    return pipeline.gateway(memory=Door(pipeline.doors["memory"], Append=appended))


def edit(number: int, bank: str, **attributes: Any) -> bytes:
    prompt, answer = FACTS[number]
    event = json.loads(event_json(f"e-{number}", bank=bank, prompt=prompt, answer=answer))
    return json.dumps({**event, **attributes}).encode()


async def consumed(gateway, bank: str, *events: bytes) -> int:
    """Lets the inbox's consumer take events; how many of them died."""
    inbox = MemoryInbox()
    for one in events:
        await inbox.append("default", one)
    consumer = asyncio.create_task(InboxConsumer(gateway._servicer, inbox, "default").run())
    try:

        async def empty() -> bool:
            return not await inbox.length("default")

        await eventually(empty)
    finally:
        consumer.cancel()
        await asyncio.gather(consumer, return_exceptions=True)
    return (await inbox.letters("default", "", 10))[1]


def named(exporter: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in exporter.get_finished_spans() if span.name == name]


def ids(span: ReadableSpan) -> tuple[str, str, list[str]]:
    """The trace, the parent's span and the traces that are linked."""
    assert span.context is not None
    parent = f"{span.parent.span_id:016x}" if span.parent else ""
    return (
        f"{span.context.trace_id:032x}",
        parent,
        [f"{one.context.trace_id:032x}" for one in span.links],
    )


async def test_an_event_of_the_inbox_goes_on_in_its_makers_trace(
    gateway, bank: str, spans, appends: Found
) -> None:
    assert not await consumed(gateway, bank, edit(0, bank, traceparent=PARENT, tracestate="v=1"))
    (span,) = named(spans, "inbox")
    assert ids(span) == (TRACE, SPAN, [])
    assert [(one.split("-")[1], state) for one, state in appends] == [(TRACE, "v=1")]


async def test_without_spans_the_makers_trace_is_passed_on(
    gateway, bank: str, appends: Found
) -> None:
    assert not await consumed(gateway, bank, edit(0, bank, traceparent=PARENT, tracestate="v=1"))
    assert appends == [(PARENT, "v=1")]


async def test_events_of_several_traces_have_a_span_in_each_and_one_append(
    gateway, bank: str, spans, appends: Found
) -> None:
    other = f"00-{OTHER}-{SPAN}-01"
    events = edit(0, bank, traceparent=PARENT), edit(1, bank, traceparent=other), edit(2, bank)
    assert not await consumed(gateway, bank, *events)
    found = {one[0]: one[1:] for one in map(ids, named(spans, "inbox"))}
    (ours,) = found.keys() - {TRACE, OTHER}
    assert found == {ours: ("", []), TRACE: (SPAN, [ours]), OTHER: (SPAN, [ours])}
    assert len(appends) == 1 and appends[0][0].split("-")[1] == ours


MALFORMED = {
    "nothing": "",
    "words": "nonsense",
    "too short": "00-1-2-01",
    "capitals": PARENT.upper(),
    "no trace": f"00-{'0' * 32}-{SPAN}-01",
    "no span": f"00-{TRACE}-{'0' * 16}-01",
    "the version that is none": f"ff-{TRACE}-{SPAN}-01",
    "more than version 0 has": f"{PARENT}-more",
    "too long": f"01{PARENT[2:]}-{'x' * 2000}",
    "a line break": f"{PARENT}\n",
    "a number": 7,
    "an object": {"trace": TRACE},
}


@pytest.mark.parametrize("traceparent", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_trace_is_ignored(traceparent: Any) -> None:
    found = parse_edit(from_json(edit(0, "b", traceparent=traceparent, tracestate="v=1")))
    assert found == parse_edit(from_json(edit(0, "b")))
    assert found.trace == ("", "")


def test_a_later_version_may_say_more() -> None:
    later = f"01{PARENT[2:]}-more"
    assert parse_edit(from_json(edit(0, "b", traceparent=later))).trace == (later, "")


async def test_an_event_with_a_malformed_trace_is_applied(gateway, bank: str, spans) -> None:
    events = edit(0, bank, traceparent="nonsense"), edit(1, bank, traceparent={}, tracestate=7)
    assert not await consumed(gateway, bank, *events)
    assert (await facts(gateway, bank)).total == 2
    assert [ids(one)[1:] for one in named(spans, "inbox")] == [("", [])]


async def test_a_published_event_goes_on_in_its_makers_trace(gateway, bank: str, spans) -> None:
    observed = Observed("gateway", gateway._servicer)
    event = from_json(edit(0, bank, traceparent=PARENT))
    await observed.Publish(pb.PublishRequest(event=event), None)
    (span,), (call,) = named(spans, "event"), named(spans, "larimar.v1.Larimar/Publish")
    assert ids(span) == (TRACE, SPAN, [ids(call)[0]]) and ids(call)[0] != TRACE


STRUCTURED_MODE = STRUCTURED, lambda bank: edit(0, bank, traceparent=PARENT)
BATCH_MODE = BATCH, lambda bank: b"[" + edit(0, bank, traceparent=PARENT) + b"]"
BINARY_MODE = (
    "application/json",
    lambda bank: json.dumps(json.loads(edit(0, bank))["data"]).encode(),
)


@pytest.mark.parametrize("mode", [STRUCTURED_MODE, BATCH_MODE, BINARY_MODE])
async def test_so_does_one_over_http_unless_the_call_is_in_that_trace(
    gateway, bank: str, spans, mode: tuple[str, Callable[[str], bytes]]
) -> None:
    kind, body = mode
    headers = {"content-type": kind}
    if mode is BINARY_MODE:
        headers |= {"ce-specversion": "1.0", "ce-id": "e-0", "ce-source": "/tests"}
        headers |= {"ce-type": "io.larimar.edit.write.v1", "ce-subject": bank}
        headers |= {"ce-traceparent": PARENT}
    app = build_app(Observed("gateway", gateway._servicer), None, Settings())
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as http:
        for _ in range(2):
            answer = await http.post("/v1/events", content=body(bank), headers=headers)
            assert answer.status_code == 200, answer.text
            assert [ids(one)[:2] for one in named(spans, "event")] == [(TRACE, SPAN)]
            headers["traceparent"] = PARENT
    assert ids(named(spans, "POST /v1/events")[-1])[:2] == (TRACE, SPAN)
