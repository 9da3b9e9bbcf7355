"""What a running pipeline says of itself: metrics, traces and logs, and what reads them."""

from __future__ import annotations

import gzip
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

import larimar
from benchmarks import dashboard, prometheus
from larimar.cli import app
from larimar.errors import FailedPrecondition
from larimar.v1 import common_pb2, encoder_pb2, larimar_pb2, larimar_pb2_grpc
from services.observability import logs, traces
from services.observability.metrics import INTERNAL_ERRORS
from services.observability.process import check_observing
from services.observability.serving import Observed
from services.settings import Settings
from tests.command_line import ROOT
from tests.document_checks import cells
from tests.pipelines import RunningPipeline, pipeline, wait_until

BANK, FACT, PROMPT, ANSWER = "secret-bank", "secret-fact", "The capital of Velmora is", "Tarsin"
OUTSIDE = "A kilometre is a thousand"
TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SERVICES = {"gateway", "encoder", "scope", "memory", "decoder"}
ALERTS = ROOT / "infra" / "prometheus" / "alerts.yml"
DASHBOARD = ROOT / "infra" / "grafana" / "dashboard.json"
WAIT_S = 180.0


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPipeline]:
    """A pipeline that records spans and logs every call, and that has served some."""
    folder = tmp_path_factory.mktemp("observed")
    settings = folder / "settings.json"
    traces_file = str(folder / "traces.jsonl")
    settings.write_text(json.dumps({"log_level": "info", "traces_file": traces_file}))
    with pipeline(folder / "data", "--no-ray", LARIMAR_SETTINGS=str(settings)) as up:
        with larimar.connect(up.target, timeout_s=WAIT_S) as client:
            client.create_bank(BANK)
            client.write(PROMPT, ANSWER, bank=BANK, fact_id=FACT)
            client.write("The capital of Ostrel is", "Quill", bank=BANK, fact_id="gone")
            client.erase(["gone"], bank=BANK)
            client.score(PROMPT, [" Tarsin", " Quill"], bank=BANK)
            assert client.ask(PROMPT, bank=BANK, max_tokens=4).in_scope
            client.checkpoint(BANK)
        get(up, "/healthz")
        yield up


def get(running: RunningPipeline, path: str) -> str:
    with urllib.request.urlopen(running.http + path, timeout=WAIT_S) as answer:
        return answer.read().decode()


def scraped(running: RunningPipeline) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Values of every sample, by name and sorted labels."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(get(running, "/metrics")):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def value(scrape: dict[str, Any], name: str, **labels: str) -> float:
    return scrape.get(name, {}).get(tuple(sorted(labels.items())), 0.0)


def spans_of(running: RunningPipeline, trace_id: str, wanted: set[str]) -> list[dict[str, Any]]:
    """The spans of a trace, once those of these names are there."""
    file, deadline = running.data_dir.parent / "traces.jsonl", time.monotonic() + WAIT_S
    while True:
        written = file.read_text() if file.exists() else ""
        spans = [json.loads(line) for line in written[: written.rfind("\n") + 1].splitlines()]
        found = [span for span in spans if span["trace_id"] == trace_id]
        missing = wanted - {span["name"] for span in found}
        if not missing:
            return found
        assert time.monotonic() < deadline, f"no span {missing}"
        time.sleep(0.2)


def test_counts_move_as_calls_are_made(running: RunningPipeline) -> None:
    before = scraped(running)
    with larimar.connect(running.target, timeout_s=WAIT_S) as client:
        client.write("The river of Velmora is", "Sill", bank=BANK, fact_id="river")
        assert client.ask(PROMPT, bank=BANK, max_tokens=4).in_scope
        pieces = list(client.ask_stream(OUTSIDE, bank=BANK, max_tokens=4))
        assert not pieces[-1].in_scope
        client.forget("river", bank=BANK)
        with pytest.raises(larimar.FailedPrecondition):
            client.forget("river", bank=BANK)
    wait_until(lambda: check_counts(before, scraped(running)))  # one process may be a moment late


def check_counts(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Asserts how two scrapes differ."""

    def moved(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    gateway = {"service": "gateway", "code": "OK"}
    assert moved("larimar_calls_total", method="Write", **gateway) == 1
    assert moved("larimar_calls_total", method="Ask", **gateway) == 2
    refused = {"service": "gateway", "method": "Forget", "code": "FAILED_PRECONDITION"}
    assert moved("larimar_calls_total", **refused) == 1
    assert moved("larimar_edits_total", kind="write", code="OK") == 1
    assert moved("larimar_edits_total", kind="forget", code="OK") == 1
    assert moved("larimar_edits_total", kind="forget", code="FAILED_PRECONDITION") == 1
    assert moved("larimar_scope_decisions_total", decision="in") == 1
    assert moved("larimar_scope_decisions_total", decision="out") == 1
    assert moved("larimar_decoded_tokens_total") >= 4
    for service, method in (("decoder", "Complete"), ("decoder", "Generate"), ("memory", "Read")):
        counted = {"service": service, "method": method}
        assert moved("larimar_calls_total", **counted, code="OK") == 1, method
        assert moved("larimar_hop_seconds_count", **counted) == 1, method
    for stage in ("encode", "encode_queue", "embed", "detect", "append", "read", "first_token"):
        assert moved("larimar_stage_seconds_count", stage=stage) >= 1, stage
    assert moved("larimar_follower_lag_versions_sum", service="memory") >= 1
    assert value(after, "larimar_store_up") == 1
    assert {dict(key)["service"] for key in after["larimar_service_ready"]} == SERVICES
    assert value(after, "larimar_erase_steps_total", step="DONE") == 1
    return True


def test_no_metric_names_a_tenant_a_bank_a_fact_or_a_text(running: RunningPipeline) -> None:
    text = get(running, "/metrics")
    assert "larimar_calls_total" in text
    for secret in (BANK, FACT, PROMPT, ANSWER, OUTSIDE, "Tarsin", "default"):
        assert secret not in text


def test_a_question_over_http_is_one_trace_of_five_services(running: RunningPipeline) -> None:
    headers = {
        "content-type": "application/json",
        "traceparent": f"00-{TRACE}-{CALLER}-01",
    }
    body = json.dumps({"prompt": PROMPT, "max_tokens": 4}).encode()
    request = urllib.request.Request(f"{running.http}/v1/banks/{BANK}/ask", body, headers)
    with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
        assert json.load(answer)["provenance"]["fact_id"] == FACT
    methods = ("Encoder/Encode", "Scope/Detect", "Memory/Read", "Decoder/Complete")
    stages = {
        "encode": "Encoder/Encode",
        "embed": "Scope/Detect",
        "detect": "Scope/Detect",
        "scope_catch_up": "Scope/Detect",
        "memory_catch_up": "Memory/Read",
        "read": "Memory/Read",
        "decode_queue": "Decoder/Complete",
        "first_token": "Decoder/Complete",
    }
    route = "POST /v1/banks/{bank}/ask"
    served_names = {f"larimar.v1.{method}" for method in methods}
    spans = spans_of(running, TRACE, {route, *served_names, *stages})
    assert {span["service"] for span in spans} == SERVICES
    by_id = {span["span_id"]: span for span in spans}
    outer = only(spans, route)
    ask = only(spans, "larimar.v1.Larimar/Ask")
    assert (outer["parent_id"], ask["parent_id"]) == (CALLER, outer["span_id"])
    for method in methods:
        served = only(spans, f"larimar.v1.{method}", "server")
        called = by_id[served["parent_id"]]
        assert (called["service"], called["kind"]) == ("gateway", "client")
        assert called["name"] == served["name"] and called["parent_id"] == ask["span_id"]
        assert called["start_unix_ns"] <= served["start_unix_ns"]
    for stage, method in stages.items():
        above = by_id[only(spans, stage)["parent_id"]]
        assert (above["name"], above["kind"]) == (f"larimar.v1.{method}", "server")


def only(spans: list[dict[str, Any]], name: str, kind: str = "") -> dict[str, Any]:
    (found,) = (one for one in spans if one["name"] == name and kind in ("", one["kind"]))
    return found


def test_an_edit_over_grpc_is_one_trace_with_its_append(running: RunningPipeline) -> None:
    trace_id = TRACE[::-1]
    metadata = (("traceparent", f"00-{trace_id}-{CALLER}-01"), ("tracestate", "vendor=1"))
    with grpc.insecure_channel(running.target) as channel:
        request = larimar_pb2.WriteRequest(bank=BANK, prompt="The sea of Velmora is", answer="Orn")
        larimar_pb2_grpc.LarimarStub(channel).Write(request, timeout=WAIT_S, metadata=metadata)
    spans = spans_of(running, trace_id, {"larimar.v1.Larimar/Write", "append", "encode", "embed"})
    assert {span["service"] for span in spans} == SERVICES - {"decoder"}
    write = only(spans, "larimar.v1.Larimar/Write")
    assert write["parent_id"] == CALLER and write["status"] == "OK"
    append, served = only(spans, "append"), only(spans, "larimar.v1.Memory/Append", "server")
    assert append["parent_id"] == served["span_id"] and append["attributes"] == {"items": 1}
    shown = CliRunner().invoke(
        app, ["trace", str(running.data_dir.parent / "traces.jsonl"), "--id", trace_id[:8]]
    )
    assert shown.exit_code == 0, shown.output
    assert all(service in shown.output for service in SERVICES - {"decoder"})
    assert "serve Memory/Append" in shown.output and "append items=1" in shown.output


def test_log_lines_are_json_with_the_ids_of_their_trace(running: RunningPipeline) -> None:
    lines = [
        json.loads(line)
        for file in (running.data_dir / "logs").glob("*.jsonl")
        for line in file.read_text().splitlines()
    ]
    for line in lines:
        assert {"event", "level", "logger", "service", "pid", "timestamp"} <= set(line)
    calls = [line for line in lines if line["event"] == "call"]
    assert {"Write", "Ask", "Erase"} <= {line["method"] for line in calls}
    assert "GetStatus" not in {line["method"] for line in calls}, "what probes ask is no news"
    refused = [line for line in calls if line["code"] != "OK"]
    assert {line["reason"] for line in refused} >= {"ALREADY_FORGOTTEN"}
    ours = [line for line in calls if line.get("trace_id") == TRACE]
    assert [line["method"] for line in ours] == ["Ask"]
    assert all(re.fullmatch("[0-9a-f]{32}", line["trace_id"]) for line in calls)


def test_neither_logs_nor_traces_hold_a_text(running: RunningPipeline) -> None:
    files = [*(running.data_dir / "logs").iterdir(), running.data_dir.parent / "traces.jsonl"]
    written = "".join(file.read_text() for file in files)
    assert "Ask" in written
    for secret in (PROMPT, ANSWER, "tarsin", OUTSIDE, "Velmora"):
        assert secret not in written


def expressions() -> Iterator[str]:
    """Every query of the dashboard and the alerts."""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["expr"]


def test_what_dashboard_and_alerts_ask_for_is_scraped(running: RunningPipeline) -> None:
    scrape, asked = scraped(running), set()
    for expression in expressions():
        for name, selectors in re.findall(r"\b(larimar_\w+)(?:\{([^}]*)\})?", expression):
            assert name in scrape, f"no metric {name}: {expression}"
            labels = {label for key in scrape[name] for label, _ in key}
            chosen = set(re.findall(r"(\w+)(?==|!=|=~)", selectors))
            assert chosen <= labels, expression
            for grouped in re.findall(r"by \(([^)]*)\)", expression):
                assert set(grouped.split(", ")) <= labels, expression
            asked.add(name)
    assert len(asked) > 40


def test_the_dashboard_shows_every_metric(running: RunningPipeline) -> None:
    shown = " ".join(expressions())
    parts = re.compile(r"_(?:bucket|sum|count|created)$")
    names = {parts.sub("", name) for name in scraped(running) if not name.endswith("_created")}
    assert [name for name in sorted(names) if name not in shown] == []


def test_every_metric_is_in_the_operations_guide(running: RunningPipeline) -> None:
    rows = cells((ROOT / "docs" / "operations.md").read_text(encoding="utf-8"), "Metrics")
    listed = {row[0].strip("`"): (set(row[1].split(", ")) - {"-"}, row[2]) for row in rows}
    found = {}
    for family in text_string_to_metric_families(get(running, "/metrics")):
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        found[name] = (labels, family.documentation)
    assert listed == found and len(found) >= 50


def promtool(*arguments: str, text: str = "") -> subprocess.CompletedProcess:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    return subprocess.run(
        ["promtool", *arguments], input=text, capture_output=True, text=True, check=False
    )


def test_prometheus_takes_the_configuration_and_the_rules() -> None:
    checked = promtool("check", "config", str(ALERTS.parent / "prometheus.yml"))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(alerts())} rules found" in checked.stdout


def test_alerts_that_count_processes_tell_growth_and_loss_apart() -> None:
    checked = promtool("test", "rules", str(ALERTS.parent / "alerts.test.yml"))
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_prometheus_understands_every_query_of_the_dashboard(tmp_path: Path) -> None:
    queries = [one.replace("$__rate_interval", "5m") for one in expressions()]
    rules = [{"record": f"panel:{n}", "expr": query} for n, query in enumerate(queries)]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    checked = promtool("check", "rules", str(file))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(rules)} rules found" in checked.stdout and len(rules) > 60


def test_prometheus_finds_nothing_to_say_about_the_metrics(running: RunningPipeline) -> None:
    checked = promtool("check", "metrics", text=get(running, "/metrics"))
    assert checked.returncode == 0, checked.stdout + checked.stderr


def alerts() -> list[dict[str, Any]]:
    return [
        rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
    ]


def test_every_alert_is_in_the_runbook() -> None:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    rows = cells(text, "Alerts")
    assert [row[0] for row in rows] == [rule["alert"] for rule in alerts()]
    for rule, row in zip(alerts(), rows, strict=True):
        assert row[1] == rule["labels"]["severity"] in ("critical", "warning", "info")
        assert len(row[2].split()) >= 4 and len(row[3].split()) >= 4, rule["alert"]
        assert rule["annotations"]["runbook_url"] == "docs/operations.md#alerts"
        assert rule["annotations"]["summary"] and rule["for"]


def test_a_killed_process_is_counted_and_its_gauges_are_forgotten(
    running: RunningPipeline,
) -> None:
    before = scraped(running)
    os.kill(running.facts()["pids"]["encoder"], signal.SIGKILL)
    encoder = {"service": "encoder"}
    wait_until(lambda: value(scraped(running), "larimar_process_starts_total", **encoder) > 1)
    wait_until(lambda: value(scraped(running), "larimar_processes", **encoder) == 1)
    after = scraped(running)
    encoded = {"service": "encoder", "method": "Encode", "code": "OK"}
    assert value(after, "larimar_calls_total", **encoded) >= value(
        before, "larimar_calls_total", **encoded
    )
    assert value(after, "larimar_process_starts_total", service="memory") == 1


def test_without_spans_the_callers_trace_is_passed_on() -> None:
    sent = f"00-{TRACE}-{CALLER}-01"
    with traces.serving("x", sent, "vendor=1") as span:
        assert span is None and traces.trace_ids() == (TRACE, CALLER)
        passed_on = traces.name_trace(common_pb2.CallContext(tenant="t"))
    assert (passed_on.traceparent, passed_on.tracestate) == (sent, "vendor=1")
    assert passed_on.tenant == "t" and traces.trace_ids() is None
    with traces.serving("x", "nonsense"):
        assert traces.name_trace(common_pb2.CallContext()).traceparent == ""


class Collector(BaseHTTPRequestHandler):
    """Takes spans by OTLP over HTTP, as a collector does."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.taken.append((self.path, ExportTraceServiceRequest.FromString(body)))  # type: ignore[attr-defined]
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_spans_go_to_a_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    server = HTTPServer(("127.0.0.1", 0), Collector)
    server.taken = taken = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(traces, "_tracer", None)
    try:
        endpoint = f"http://127.0.0.1:{server.server_port}/"
        traces.start_tracing("encoder", Settings(otlp_endpoint=endpoint, trace_sample=0.0))
        with traces.serving("not sampled"):
            pass
        with traces.serving("encode it", f"00-{TRACE}-{CALLER}-01"):
            pass
        deadline = time.monotonic() + WAIT_S
        while not taken:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        server.shutdown()
        server.server_close()
    ((path, request),) = taken
    (resource,) = request.resource_spans
    (span,) = resource.scope_spans[0].spans
    assert path == "/v1/traces" and span.name == "encode it"
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, CALLER)
    named = {one.key: one.value.string_value for one in resource.resource.attributes}
    assert named["service.name"] == "encoder"


def test_an_errors_text_is_not_logged(tmp_path: Path) -> None:
    log, handlers = logs.get_logger("larimar.test"), logging.getLogger().handlers[:]
    try:
        logs.start_logging("encoder", Settings(data_dir=str(tmp_path)))
        try:
            raise ValueError(PROMPT)
        except ValueError as error:
            log.error("unexpected failure", exc_info=error, bank="b")
        log.info("nobody asked for this level")
    finally:
        logging.getLogger().handlers[:] = handlers
        logging.getLogger("larimar").setLevel(logging.NOTSET)
    (line,) = (tmp_path / "logs" / "encoder.jsonl").read_text().splitlines()
    said = json.loads(line)
    assert PROMPT not in line
    assert (said["event"], said["bank"], said["error"]) == ("unexpected failure", "b", "ValueError")
    assert any("test_an_errors_text" in place for place in said["raised_at"])


class Parrot:
    """A service of two methods: one answers with what it hears, the other fails."""

    repeats = 1

    async def Encode(self, request: Any, grpc_context: Any) -> list[Any]:
        return self.repeats * [request]

    async def DescribeEncoder(self, request: Any, grpc_context: Any) -> None:
        raise larimar.DataLoss("gone")


async def test_an_observed_service_is_that_service() -> None:
    parrot, request = Parrot(), encoder_pb2.EncodeRequest()
    observed = Observed("encoder", parrot)
    before = INTERNAL_ERRORS.labels("encoder")._value.get()
    observed.repeats = 2
    assert parrot.repeats == observed.repeats == 2
    assert await observed.Encode(request, None) == [request, request]
    with pytest.raises(larimar.DataLoss, match="gone"):
        await observed.DescribeEncoder(encoder_pb2.DescribeEncoderRequest())
    assert INTERNAL_ERRORS.labels("encoder")._value.get() == before + 1


@pytest.mark.parametrize("wrong", [{"log_level": "loud"}, {"trace_sample": 1.5}])
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(larimar.InvalidArgument, match=next(iter(wrong))) as refused:
        check_observing(Settings(**wrong))
    assert refused.value.reason == "BAD_SETTINGS"
    check_observing(Settings())


def test_a_long_log_is_moved_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_LOG_BYTES", 200)
    newest, older = tmp_path / "x.jsonl", tmp_path / "x.jsonl.1"
    file = logs._LogFile(newest)
    for number in range(9):
        file.emit(logging.LogRecord("n", logging.ERROR, "p", 1, f"{number} " + 60 * "x", (), None))
    file.close()
    kept = [*older.read_text().splitlines(), *newest.read_text().splitlines()]
    assert [int(line.split()[0]) for line in kept] == [*range(9 - len(kept), 9)]
    assert newest.stat().st_size <= 300 and older.stat().st_size <= 300


@pytest.mark.skipif(
    shutil.which("prometheus") is None,
    reason="prometheus is not installed (Debian: apt-get install prometheus)",
)
def test_the_dashboard_is_drawn_from_a_real_prometheus(
    running: RunningPipeline, tmp_path: Path
) -> None:
    with prometheus.scraping(running.facts()["http_port"], tmp_path / "prometheus", 2) as server:
        begun = time.time()
        with larimar.connect(running.target, timeout_s=WAIT_S) as client:
            client.ask(PROMPT, bank=BANK, max_tokens=4)
            wait_until(lambda: len(server.now("larimar_service_ready")) >= len(SERVICES))
            client.ask(PROMPT, bank=BANK, max_tokens=4)
            time.sleep(6.0)
        empty = dashboard.render(server, begun, time.time(), tmp_path / "dashboard.png", scrape_s=2)
        with pytest.raises(FailedPrecondition, match="parse error"):
            server.now("rate(")
    assert not {"Services", "Ask", "Edits", "Scope decisions", "Models", "Disk"} & set(empty)
    with Image.open(tmp_path / "dashboard.png") as drawn:
        assert drawn.width > 1000 and len(drawn.convert("RGB").getcolors(1 << 24)) > 10
