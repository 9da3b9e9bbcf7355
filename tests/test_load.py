"""The load: what its clients do with refusals, what it says of what it saw, and a tiny run."""

from __future__ import annotations

import asyncio
import json
import math
import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

import larimar
from benchmarks import load_clients
from benchmarks.chaos import Found
from benchmarks.load import Load, recovered_s
from benchmarks.load_clients import Books, HttpDoor, LoadClient, Sample, closed_loop, open_loop
from benchmarks.load_report import LoadReport, draw, longest_pause_s, percentile
from benchmarks.load_watch import Memory, histograms, quantile, service_of
from benchmarks.texts import made_up_facts
from larimar.errors import (
    Conflict,
    DeadlineExceeded,
    FailedPrecondition,
    LarimarError,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from tests.in_process import ServedPipeline, Weights

FACTS = made_up_facts(6)


class Script:
    """A door that answers edits as it was told, then acknowledges the rest."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.sent: list[tuple[str, str]] = []
        self.closed = False

    async def ask(self, bank: str, prompt: str, min_version: int) -> None:
        await asyncio.sleep(0)  # as any door does: other clients get their turn
        self.sent.append(("ask", str(min_version)))

    async def write(self, bank: str, fact: dict[str, str]) -> int:
        return self._answered("write", fact["event_id"])

    async def forget(self, bank: str, fact_id: str, event_id: str) -> int:
        return self._answered("forget", event_id)

    async def close(self) -> None:
        self.closed = True

    def _answered(self, kind: str, event_id: str) -> int:
        self.sent.append((kind, event_id))
        answer = self.answers.pop(0) if self.answers else len(self.sent)
        if isinstance(answer, LarimarError):
            raise answer
        return answer


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_clients, "PAUSE_S", 0.001)
    monkeypatch.setattr(load_clients, "SETTLE_S", 0.02)


def client_of(door: Any, books: Books) -> LoadClient:
    return LoadClient("c", door, ["b"], FACTS, books, seed=1)


async def wrote(client: LoadClient, stopping: bool = False) -> None:
    event = asyncio.Event()
    if stopping:
        event.set()
    await client._write("b", event)


async def test_an_edit_is_sent_under_its_event_id_until_it_is_settled() -> None:
    door, books = Script(ResourceExhausted("full", "QUEUE_FULL"), Unavailable("down"), 7), Books()
    await wrote(client_of(door, books))
    assert door.sent == [("write", "c-0")] * 3
    assert books.acknowledged == {"b": {"c-0": 7}}
    assert [(one.reason, one.hinted) for one in books.samples] == [
        ("QUEUE_FULL", True),
        ("UNAVAILABLE", True),
        ("", False),
    ]
    assert (books.out_of_order, books.unsettled) == (0, 0)


async def test_what_is_refused_for_good_is_not_sent_again_nor_forgotten_later() -> None:
    door, books = Script(Conflict("other body")), Books()
    client = client_of(door, books)
    await wrote(client)
    assert (len(door.sent), books.acknowledged, client._live["b"]) == (1, {}, [])


async def test_an_edit_that_nobody_settles_is_counted_when_the_load_is_over() -> None:
    door, books = Script(*[Unavailable("down") for _ in range(1000)]), Books()
    await wrote(client_of(door, books), stopping=True)
    assert books.unsettled == 1


async def test_versions_that_go_back_are_counted_and_reads_ask_for_the_newest() -> None:
    door, books = Script(5, 4), Books()
    client = client_of(door, books)
    await wrote(client)
    await wrote(client)
    assert books.out_of_order == 1
    await client._ask("b")
    assert door.sent[-1] == ("ask", "4")


async def test_both_loops_end_and_the_open_one_keeps_its_rate() -> None:
    books = Books()
    doors = [Script(), Script()]
    await closed_loop([client_of(door, books) for door in doors], 0.05)
    assert all(door.sent and door.closed for door in doors)
    opened = Books()
    door = Script()
    await open_loop([client_of(door, opened)], rate=200.0, seconds=0.1)
    assert len(opened.samples) == 20 and door.closed


class Answers(BaseHTTPRequestHandler):
    """Answers of an HTTP port, by path."""

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        length = int(self.headers["content-length"])
        body = json.loads(self.rfile.read(length))
        if self.path == "/v1/banks/b/facts":
            self._answer(200, {"version": 3, **body})
        elif "hint" in body["prompt"]:
            self._answer(429, error("resource_exhausted", "QUEUE_FULL"), "1")
        else:
            self._answer(429, error("resource_exhausted", "QUEUE_FULL"))

    def do_DELETE(self) -> None:
        assert self.path == "/v1/banks/b/facts/f%201?event_id=e"
        self._answer(404, error("not_found", "UNKNOWN_FACT"))

    def _answer(self, status: int, body: dict[str, Any], retry: str = "") -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        if retry:
            self.send_header("Retry-After", retry)
        self.end_headers()
        self.wfile.write(content)


def error(kind: str, code: str) -> dict[str, Any]:
    return {"error": {"message": "m", "type": kind, "param": None, "code": code}}


async def test_errors_over_http_are_those_of_the_client() -> None:
    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        door = HttpDoor("127.0.0.1", server.server_port)
        fact = {"prompt": "p", "answer": "a", "fact_id": "f", "event_id": "e"}
        assert await door.write("b", fact) == 3
        for prompt, hinted in (("with a hint", True), ("without", False)):
            with pytest.raises(ResourceExhausted) as refused:
                await door.ask("b", prompt, 0)
            assert (refused.value.reason, refused.value.retry_safe) == ("QUEUE_FULL", hinted)
        with pytest.raises(NotFound):
            await door.forget("b", "f 1", "e")
        server.shutdown()
    await door.close()
    gone = HttpDoor("127.0.0.1", server.server_port)
    with pytest.raises(Unavailable):
        await gone.ask("b", "p", 0)
    await gone.close()


def sample(kind: str, at_s: float, seconds: float, code: int = 0, hinted: bool = True) -> Sample:
    return Sample(kind, at_s, seconds, "QUEUE_FULL" if code else "", code, hinted)


def test_the_report_tells_back_pressure_from_errors() -> None:
    books = Books()
    books.samples = [
        sample("ask", 0.0, 0.1),
        sample("ask", 2.0, 0.3),
        sample("write", 0.5, 0.2),
        sample("write", 0.6, 0.1, 8, hinted=False),
        sample("ask", 0.7, 0.1, 14),
    ]
    report = LoadReport({"mode": "steady"})
    report.take_books(books)
    report.take_found(Found(acknowledged=1, lost=1), books)
    found = {what: (one["value"], one.get("met")) for what, one in report.compared.items()}
    assert found["calls refused by back-pressure"] == (1, None)
    assert found["of these without a retry hint"] == (1, False)
    assert found["calls with another error"] == (1, False)
    assert found["acknowledged and lost"] == (1, False)
    report.take_found(Found(acknowledged=1), books, ", 2 replicas")
    assert not report.compared["acknowledged and lost"]["met"]
    assert report.compared["acknowledged and lost, 2 replicas"]["met"]
    assert found["versions missing"] == (0, True)
    assert found["longest time without an answer"][0] == pytest.approx(1.6)
    assert found["calls answered"][0] == pytest.approx(3 / 2.3)
    rates = [one for one in report.points if one["what"] == "rate"]
    assert {(one["second"], one["kind"]) for one in rates if one["calls"] == 1} == {
        (0, "ask"), (2, "ask"), (0, "write"), (0, "refused"), (0, "failed"),
    }  # fmt: skip


def test_percentiles_and_pauses() -> None:
    assert [percentile([3, 1, 2], percent) for percent in (50, 95, 99)] == [2, 3, 3]
    assert percentile(list(range(100)), 95) == 95
    assert longest_pause_s([]) == 0.0


def test_a_histogram_is_what_came_between_two_scrapes() -> None:
    def counts(*values: float) -> dict:
        ends = ("0.1", "1.0", "+Inf")
        buckets = {
            ("larimar_stage_seconds_bucket", (("le", end), ("stage", "encode"))): value
            for end, value in zip(ends, values[:3], strict=True)
        }
        labels = (("stage", "encode"),)
        return {
            **buckets,
            ("larimar_stage_seconds_sum", labels): values[3],
            ("larimar_stage_seconds_count", labels): values[2],
            ("other", ()): 1.0,
        }

    (one,) = histograms(counts(1, 1, 1, 0.05), counts(1, 11, 11, 5.05), "larimar_stage_seconds")
    assert one == {
        "stage": "encode", "count": 10, "sum": 5.0, "p50": 1.0, "p95": 1.0, "p99": 1.0,
    }  # fmt: skip
    assert list(histograms({}, {}, "larimar_stage_seconds")) == []
    assert quantile({0.1: 0.0, math.inf: 4.0}, 0.5) == 0.1


class Here:
    """A pipeline whose processes are this one."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.pids = [os.getpid()]


def test_a_tiny_load_loses_nothing_and_is_drawn(weights: Weights, tmp_path) -> None:
    with ServedPipeline(weights, "objects") as served:
        with larimar.connect(served.target) as client:
            for bank in ("load-0", "load-1"):
                client.create_bank(bank)
                list(client.write_many(FACTS, bank=bank))
        here: Any = Here(served.target)
        load = Load(here, 0, False, ["load-0", "load-1"], FACTS, seed=2)
        with Memory(lambda: here.pids) as memory:
            asyncio.run(load.closed(4, 2.0))
        load.check()
        assert recovered_s(served.target, FACTS, within_s=60.0) > 0
    report = LoadReport({"mode": "steady"})
    report.take_books(load.books)
    report.take_memory(memory)
    report.take_found(load.found, load.books)
    report.take_disturbances([(0.5, "nothing")])
    compared = report.results()["compared"]
    assert load.found.acknowledged == sum(map(len, load.books.acknowledged.values())) > 0
    assert load.found.events == load.found.acknowledged + 2 * len(FACTS)
    assert [what for what, one in compared.items() if one.get("met") is False] == []
    assert memory.largest()["all"] > 2**20 and service_of(os.getpid()) == "other"
    draw({"results": report.results()}, tmp_path / "load.png")
    assert (tmp_path / "load.png").read_bytes()[:4] == b"\x89PNG"


def test_a_lost_edit_a_gap_and_a_wrong_fact_are_found(weights: Weights) -> None:
    with ServedPipeline(weights, "objects") as served:
        with larimar.connect(served.target) as client:
            version = client.write("p", "a", bank="default", event_id="e").version
        load = Load(Here(served.target), 0, False, ["default"], FACTS, 1)  # type: ignore[arg-type]
        load.books.acknowledged = {"default": {"e": version, "lost": 2, "moved": 3}}
        load.check()
    assert (load.found.lost, load.found.acknowledged, load.found.mismatches) == (2, 3, 0)


@pytest.mark.parametrize(
    ("raised", "again"), [(DeadlineExceeded("late"), True), (FailedPrecondition("no"), False)]
)
async def test_an_unknown_end_is_settled_and_a_refusal_is_not_repeated(raised, again) -> None:
    door, books = Script(raised), Books()
    await wrote(client_of(door, books))
    assert (len(door.sent) == 2) == again == bool(books.acknowledged)
