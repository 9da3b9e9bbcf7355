"""HTTP: resources and questions over real services and a real socket."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Iterator

import httpx2 as httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from larimar.errors import DataLoss
from larimar.v1 import larimar_pb2 as pb
from services.gateway.http import door, recent, routes, search, server, sse
from services.gateway.http.door import GUARDED, MAX_BODY_BYTES
from services.settings import Settings
from tests.gateway_calls import ANSWER, ELSEWHERE, PROMPT
from tests.in_process import new_bank_name
from tests.served_http import ServedHttp, error_of, events_of

FACT = {"prompt": PROMPT, "answer": ANSWER, "fact_id": "velmora"}
TEXTS = [f"The keeper of lighthouse {number} is" for number in range(7)]


@pytest.fixture(scope="module")
def served(weights) -> Iterator[ServedHttp]:
    with ServedHttp(weights) as running:
        yield running


@pytest.fixture(scope="module")
def http(served: ServedHttp) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, timeout=120.0) as client:
        yield client


@pytest.fixture
def bank(http: httpx.Client) -> str:
    """Path of a bank of the test's own."""
    name = new_bank_name()
    assert http.post("/v1/banks", json={"bank": name}).json()["created"]
    return f"/v1/banks/{name}"


def wait_for(check, timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_fact_is_written_asked_listed_and_forgotten(http, bank) -> None:
    written = http.post(f"{bank}/facts", json=FACT).json()
    assert (written["fact_id"], written["version"], written["duplicate"]) == ("velmora", 1, False)
    asked = http.post(f"{bank}/ask", json={"prompt": PROMPT, "max_tokens": 8}).json()
    assert asked["text"] == "tarsin" and asked["finish_reason"] == "stop"
    assert asked["prompt_tokens"] > 0 and asked["tokens"] > 0
    source = asked["provenance"]
    assert (source["in_scope"], source["fact_id"], source["version"]) == (True, "velmora", 1)
    page = http.get(f"{bank}/facts").json()
    assert page["facts"] == [
        {"fact_id": "velmora", "prompt": PROMPT, "answer": ANSWER, "rephrasings": [], "version": 1}
    ]
    assert (page["version"], page["total"], page["next_after"]) == (1, 1, "")
    forgotten = http.delete(f"{bank}/facts/velmora", params={"event_id": "gone"}).json()
    assert (forgotten["version"], forgotten["event_id"]) == (2, "gone")
    events = http.get(f"{bank}/events").json()["events"]
    assert [(one["version"], one["kind"]) for one in events] == [(1, "WRITE"), (2, "FORGET")]
    past = http.post(f"{bank}/ask", json={"prompt": PROMPT, "max_tokens": 8, "at_version": 1})
    assert past.json()["text"] == "tarsin"
    assert not http.post(f"{bank}/ask", json={"prompt": PROMPT}).json()["provenance"]["in_scope"]


def test_an_id_with_slashes_and_blanks_is_one_fact(http, bank) -> None:
    http.post(f"{bank}/facts", json={**FACT, "fact_id": "a/b c?d"})
    assert http.delete(f"{bank}/facts/a%2Fb%20c%3Fd").json()["fact_id"] == "a/b c?d"


def test_the_same_event_twice_is_one_and_another_body_is_a_conflict(http, bank) -> None:
    fact = {**FACT, "event_id": "e1"}
    assert not http.post(f"{bank}/facts", json=fact).json()["duplicate"]
    assert http.post(f"{bank}/facts", json=fact).json()["duplicate"]
    other = http.post(f"{bank}/facts", json={**fact, "answer": "Oskelund"})
    assert other.status_code == 409
    assert (error_of(other)["code"], error_of(other)["type"]) == ("CONFLICT", "already_exists")
    stale = http.post(f"{bank}/facts", json={**FACT, "expected_version": 0})
    assert (stale.status_code, error_of(stale)["code"]) == (409, "FACT_CHANGED")


def test_pages_and_a_search_cover_every_fact_once(http, bank, monkeypatch) -> None:
    for number, text in enumerate(TEXTS):
        http.post(f"{bank}/facts", json={"prompt": text, "answer": f"N{number}", "fact_id": text})

    def listed(**params) -> list[str]:
        found, token = [], ""
        while True:
            page = http.get(f"{bank}/facts", params={**params, "page_token": token}).json()
            found += [fact["prompt"] for fact in page["facts"]]
            if not (token := page["next_after"]):
                return found

    assert listed(page_size=3) == TEXTS
    assert listed(search="LIGHTHOUSE", page_size=2) == TEXTS
    assert listed(search="n4") == [TEXTS[4]]
    monkeypatch.setattr(search, "LOOK", 2)
    monkeypatch.setattr(search, "MAX_SEARCHED", 4)
    assert listed(search="n6") == [TEXTS[6]]
    assert listed(search="lighthouse", page_size=1) == TEXTS
    assert listed(search="nobody") == []


def test_censor_score_recall_and_documents(http, bank) -> None:
    http.post(f"{bank}/facts", json=FACT)
    score = {"prompt": PROMPT, "candidates": [" Tarsin", " Oskelund"]}
    scores = http.post(f"{bank}/score", json=score).json()["scores"]
    ours, other = (sum(one["token_logprobs"]) for one in scores)
    assert ours > other
    http.post(f"{bank}/censor", json={"prompt": ELSEWHERE})
    assert http.post(f"{bank}/ask", json={"prompt": ELSEWHERE}).json()["text"] == "unknown"
    censored = http.post(f"{bank}/censor", json={"prompt": PROMPT, "fact_id": FACT["fact_id"]})
    assert censored.json()["fact_id"] == FACT["fact_id"]
    assert (
        http.get(f"{bank}/facts", params={"fact_id": FACT["fact_id"]}).json()["facts"][0]["answer"]
        == "unknown"
    )
    document = {"document": "trip.txt", "text": "The boat left at noon. Nobody saw it return."}
    assert http.post(f"{bank}/documents", json=document).json()["passages"] >= 1
    recalled = http.post(f"{bank}/recall", json={"prompt": "When did the boat leave?"}).json()
    assert recalled["passages"][0]["document"] == "trip.txt"


def test_banks_are_made_forked_compared_merged_checked_and_deleted(http, bank) -> None:
    http.post(f"{bank}/facts", json=FACT)
    name = bank.rsplit("/", 1)[1]
    fork = new_bank_name()
    made = http.post(f"{bank}/forks", json={"new_bank": fork}).json()
    assert (made["created"], made["info"]["origin"]["bank"]) == (True, name)
    http.post(f"/v1/banks/{fork}/facts", json={**FACT, "answer": "Oskelund"})
    diff = http.get(f"{bank}/diff", params={"from_version": 1, "to_bank": fork}).json()["diff"]
    (change,) = diff["changes"]
    assert (change["kind"], change["before"]["answer"]) == ("CHANGED", ANSWER)
    assert change["after"]["answer"] == "Oskelund"
    merge = {"source": fork, "policy": "theirs", "merge_id": "m1"}
    assert http.post(f"{bank}/merges", json=merge).json()["merge"]["written"] == 1
    assert http.get(f"{bank}/digest").json()["version"] == 2
    assert http.get(f"{bank}/digest", params={"at_version": 1}).json()["version"] == 1
    assert http.post(f"{bank}/replay").json()["matches"]
    assert http.post(f"{bank}/checkpoints").json()["bytes"] > 0
    names = [one["config"]["bank"] for one in http.get("/v1/banks").json()["banks"]]
    assert {name, fork} <= set(names)
    assert http.get(bank).json()["info"]["config"]["addressing"] == "slots"
    refused = http.delete(bank)
    assert refused.status_code == 409 and error_of(refused)["type"] == "failed_precondition"
    assert http.delete(f"/v1/banks/{fork}").status_code == 200
    assert http.delete(bank).json() == {}
    assert error_of(http.get(bank))["code"] == "UNKNOWN_BANK"


def test_an_erasure_has_a_receipt(http, bank) -> None:
    http.post(f"{bank}/facts", json=FACT)
    begun = http.post(f"{bank}/erasures", json={"fact_ids": ["velmora"], "event_id": "e/1"})
    assert begun.json()["receipt"]["event_id"] == "e/1"

    def done() -> bool:
        return http.get(f"{bank}/erasures/e/1").json()["receipt"]["step"] == "DONE"

    wait_for(done)
    assert http.get(f"{bank}/facts").json()["facts"] == []
    missing = http.get(f"{bank}/erasures/nothing")
    assert missing.status_code == 404


def test_a_tiny_top_p_leaves_the_one_most_probable_token(http, bank) -> None:
    def said(**more) -> str:
        return http.post(f"{bank}/ask", json={"prompt": ELSEWHERE, "max_tokens": 8, **more}).text

    assert said(temperature=10, top_p=1e-50) == said() != said(temperature=10)


# Streams


def test_a_streamed_answer_is_the_whole_one_in_pieces(http, bank) -> None:
    question = {"prompt": ELSEWHERE, "max_tokens": 12}
    whole = http.post(f"{bank}/ask", json=question).json()
    streamed = http.post(f"{bank}/ask", json={**question, "stream": True})
    assert streamed.headers["content-type"].startswith("text/event-stream")
    pieces = [one["data"] for one in events_of(streamed)]
    assert len(pieces) > 1
    assert "".join(piece["text"] for piece in pieces) == whole["text"]
    assert pieces[-1]["provenance"] == whole["provenance"]
    assert not any(piece["provenance"] for piece in pieces[:-1])


def test_an_error_before_the_first_piece_is_a_status_and_one_after_it_an_event(
    http, bank, served, monkeypatch
) -> None:
    refused = http.post("/v1/banks/nobody/ask", json={"prompt": PROMPT, "stream": True})
    assert (refused.status_code, error_of(refused)["code"]) == (404, "UNKNOWN_BANK")

    async def broken(request, call):
        yield pb.AskResponse(text="half")
        raise DataLoss("the log is damaged", "BROKEN_CHAIN")

    monkeypatch.setattr(served.gateway, "Ask", broken)
    streamed = events_of(http.post(f"{bank}/ask", json={"prompt": PROMPT, "stream": True}))
    assert streamed[0]["data"]["text"] == "half"
    assert streamed[1]["event"] == "error"
    assert streamed[1]["data"]["error"]["code"] == "BROKEN_CHAIN"


def test_a_watch_tells_of_events_as_they_come_and_goes_on_after_the_last_one(http, bank) -> None:
    http.post(f"{bank}/facts", json=FACT)
    with http.stream("GET", f"{bank}/events/stream") as stream:
        lines = stream.iter_lines()
        assert next(lines) == "id: 1"
        assert json.loads(next(lines).removeprefix("data: "))["kind"] == "WRITE"
        http.delete(f"{bank}/facts/velmora")
        assert [next(lines), next(lines)] == ["", "id: 2"]
    again = {"last-event-id": "1"}
    with http.stream("GET", f"{bank}/events/stream", headers=again) as stream:
        lines = stream.iter_lines()
        assert next(lines) == "id: 2"
    ahead = http.get(f"{bank}/events/stream", params={"after": 7})
    assert error_of(ahead)["code"] == "VERSION_NOT_WRITTEN"


def test_a_watch_is_kept_alive_and_ends_with_its_reader(http, bank, served, monkeypatch) -> None:
    monkeypatch.setattr(sse, "KEEP_ALIVE_S", 0.05)
    wait_for(lambda: served.gateway._watches == 0)  # those of the tests before
    with http.stream("GET", f"{bank}/events/stream") as stream:
        lines = stream.iter_lines()
        assert next(lines).startswith(":")
        assert served.gateway._watches == 1
    wait_for(lambda: served.gateway._watches == 0)


def test_an_answer_that_nobody_waits_for_is_given_up(served, bank, monkeypatch) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def endless(request, call):
        begun.set()
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    monkeypatch.setattr(served.gateway, "Digest", endless)
    with socket.create_connection(("127.0.0.1", served.port)) as plain:
        plain.sendall(f"GET {bank}/digest HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
        wait_for(begun.is_set)
    wait_for(ended.is_set)


# What is refused


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": PROMPT}, "answer"),
        ({**FACT, "prompt": " "}, "prompt"),
        ({**FACT, "prompt": 7}, "prompt"),
        ({**FACT, "colour": "red"}, "colour"),
        ({**FACT, "rephrasings": ["x"] * 17}, "rephrasings"),
        ({**FACT, "rephrasings": ["x", ""]}, "rephrasings.1"),
        ({**FACT, "fact_id": "a\x00"}, "fact_id"),
        ({**FACT, "answer": "x" * 20_000}, "answer"),
    ],
)
def test_a_body_that_is_not_as_described_names_the_field(http, bank, body, param) -> None:
    refused = http.post(f"{bank}/facts", json=body)
    error = error_of(refused)
    assert (refused.status_code, error["code"]) == (400, "BAD_REQUEST")
    assert (error["param"], error["type"]) == (param, "invalid_argument")
    assert PROMPT not in refused.text


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"bank": "x", "slots": 5}, "slots"),
        ({"bank": "x", "addressing": "pinv", "slots": 5000}, "slots"),
        ({"bank": "x", "addressing": "pinv", "slots": True}, "slots"),
        ({"bank": "x", "addressing": "other"}, "addressing"),
        ({"bank": "X"}, "bank"),
    ],
)
def test_a_bank_that_cannot_be_made_is_refused_by_its_field(http, body, param) -> None:
    refused = http.post("/v1/banks", json=body)
    assert (refused.status_code, error_of(refused)["param"]) == (400, param)


@pytest.mark.parametrize(
    "sent",
    [b"{", b"[]", b"\xff", b'{"prompt": "\\ud800", "answer": "x"}', b"", b"[" * 100_000, b"NaN"],
)
def test_what_is_no_json_object_is_refused(http, bank, sent) -> None:
    json_type = {"content-type": "application/json"}
    refused = http.post(f"{bank}/facts", content=sent, headers=json_type)
    assert (refused.status_code, error_of(refused)["code"]) == (400, "BAD_REQUEST")


def test_json_under_another_name_is_refused(http, bank) -> None:
    sent = json.dumps(FACT)
    for headers in ({"content-type": "text/plain"}, {}):
        refused = http.post(f"{bank}/facts", content=sent, headers=headers)
        assert refused.status_code == 400 and "application/json" in error_of(refused)["message"]


def test_unknown_paths_and_methods_have_the_same_shape(http) -> None:
    missing = http.get("/v1/nothing")
    assert (missing.status_code, error_of(missing)["code"]) == (404, "UNKNOWN_PATH")
    wrong = http.put("/v1/banks")
    assert (wrong.status_code, error_of(wrong)["code"]) == (405, "METHOD_NOT_ALLOWED")
    assert wrong.headers["allow"] == "GET, POST"


def test_a_body_past_the_limit_is_refused_before_it_is_read(served, http, bank) -> None:
    head = f"POST {bank}/facts HTTP/1.1\r\nhost: localhost\r\ncontent-length: {{}}\r\n\r\n"
    for length in (str(MAX_BODY_BYTES + 1), "1" * 300):
        with socket.create_connection(("127.0.0.1", served.port)) as plain:
            plain.sendall(head.format(length).encode())
            assert plain.recv(4096).startswith(b"HTTP/1.1 4")
    parts = (b"x" * 2**20 for _ in range(9))
    dripped = http.post(f"{bank}/facts", content=parts)
    assert (dripped.status_code, error_of(dripped)["code"]) == (413, "MESSAGE_TOO_LARGE")


@pytest.mark.parametrize("path", ["{bank}/facts", "/mcp"])
def test_a_body_that_does_not_come_is_not_waited_for(served, bank, monkeypatch, path) -> None:
    monkeypatch.setattr(routes, "BODY_TIMEOUT_S", 0.1)
    path = path.format(bank=bank)
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n{{"
    with socket.create_connection(("127.0.0.1", served.port)) as plain:
        plain.sendall(head.encode())
        assert plain.recv(4096).startswith(b"HTTP/1.1 504")


def test_headers_past_the_limit_are_refused_and_others_go_on(http) -> None:
    refused = http.get("/v1/banks", headers={"x-filler": "x" * 20_000})
    assert (refused.status_code, error_of(refused)["code"]) == (431, "HEADERS_TOO_LARGE")
    assert http.get("/healthz").json() == {"status": "ok"}


def test_the_deadline_of_a_call_is_its_header(http, bank) -> None:
    late = http.get(f"{bank}/digest", headers={"x-larimar-timeout-s": "0.000001"})
    assert (late.status_code, error_of(late)["code"]) == (504, "DEADLINE_EXCEEDED")
    wrong = http.get(f"{bank}/digest", headers={"x-larimar-timeout-s": "-1"})
    assert (wrong.status_code, error_of(wrong)["param"]) == (400, "x-larimar-timeout-s")


def test_one_call_more_than_the_limit_is_sent_away_and_told_when_to_come(
    http, bank, monkeypatch
) -> None:
    monkeypatch.setattr(door, "MAX_HTTP_CALLS", 1)
    with http.stream("GET", f"{bank}/events/stream"):
        refused = http.get(f"{bank}/digest")
        assert (refused.status_code, error_of(refused)["code"]) == (429, "TOO_MANY_CALLS")
        assert int(refused.headers["retry-after"]) >= 1
        assert http.get("/healthz").status_code == 200
    wait_for(lambda: http.get(f"{bank}/digest").status_code == 200)


@pytest.fixture
async def impatient(monkeypatch) -> AsyncIterator[int]:
    """The port of a server that keeps what is idle half a second."""
    monkeypatch.setattr(server, "IDLE_S", 0.5)

    async def lengthy(request) -> Response:
        return Response((await request.body()) * 2**20)

    app = Starlette(routes=[Route("/", lengthy, methods=["GET", "POST"])])
    running = server.HttpServer(app, Settings())
    yield await running.start("127.0.0.1", 0)
    await running.stop()


@pytest.mark.timeout(300)
async def test_a_connection_on_which_no_whole_request_comes_is_let_go(impatient) -> None:
    half = b"POST / HTTP/1.1\r\nhost: localhost\r\n"
    whole = half + b"content-length: 1\r\n\r\n"
    working, ask = await asyncio.open_connection("127.0.0.1", impatient)
    ask.write(whole)  # and its body once those that began later are gone
    for sent in (b"", half, whole + b"x" + half):
        reader, writer = await asyncio.open_connection("127.0.0.1", impatient)
        writer.write(sent)
        answer = await reader.read()
        assert answer.count(b"HTTP/1.1 200") == sent.count(b"\r\n\r\n")
        writer.close()
    ask.write(b"x")
    assert (await working.readline()).startswith(b"HTTP/1.1 200")
    ask.close()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kept", ["close", "keep-alive"])
async def test_a_connection_that_takes_no_answer_is_let_go(impatient, kept) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket() as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.setblocking(False)
        await loop.sock_connect(plain, ("127.0.0.1", impatient))
        head = f"POST / HTTP/1.1\r\nhost: localhost\r\nconnection: {kept}\r\n"
        await loop.sock_sendall(plain, f"{head}content-length: 16\r\n\r\n{'x' * 16}".encode())
        with pytest.raises(OSError):  # which says that the other side has gone
            while True:
                await loop.sock_sendall(plain, b"x")
                await asyncio.sleep(0.02)


def test_pages_of_other_sites_may_not_call(http, served) -> None:
    def origin(name: str) -> httpx.Response:
        return http.post("/v1/banks", json={"bank": "evil"}, headers={"origin": name})

    for name in ("http://evil.example", "null", "http://[", f"http://evil.example:{served.port}"):
        refused = origin(name)
        assert (refused.status_code, error_of(refused)["code"]) == (403, "BAD_ORIGIN")
    rebound = http.get("/v1/banks", headers={"host": "evil.example"})
    assert (rebound.status_code, error_of(rebound)["code"]) == (403, "BAD_HOST")
    assert origin(served.url).status_code == 200
    assert "evil" in http.get("/v1/banks").text


async def test_a_port_that_names_its_hosts_answers_to_no_other_whatever_it_listens_on() -> None:
    async def hello(request) -> Response:
        return Response("hello")

    app = Starlette(routes=[Route("/healthz", hello)])
    for names in ((), ("localhost", "Larimar")):
        settings = Settings(host="0.0.0.0", host_names=names)
        running = server.HttpServer(door.Door(app, None, settings), settings)
        port = await running.start("127.0.0.1", 0)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=120.0) as http:
            for host, known in (
                (f"localhost:{port}", True),
                ("larimar:8000", True),
                (f"127.0.0.1:{port}", not names),
                ("evil.example", not names),
                ("", not names),
            ):
                answer = await http.get("/healthz", headers={"host": host})
                assert answer.status_code == (200 if known else 403), (names, host)
                if not known:
                    assert error_of(answer)["code"] == "BAD_HOST"
        await running.stop()


# Health, and what is said of the interface


def test_readiness_names_who_does_not_answer(http, served, monkeypatch) -> None:
    monkeypatch.setattr(recent, "KEPT_S", 0.0)
    assert http.get("/readyz").json() == {"status": "ready"}

    async def down(request, call):
        services = [pb.ServiceInfo(name="gateway", ready=True), pb.ServiceInfo(name="scope")]
        return pb.GetStatusResponse(services=services)

    monkeypatch.setattr(served.gateway, "GetStatus", down)
    refused = http.get("/readyz")
    assert (refused.status_code, error_of(refused)["code"]) == (503, "NOT_READY")
    assert "scope" in error_of(refused)["message"] and "retry-after" in refused.headers
    assert http.get("/healthz").json() == {"status": "ok"}


def test_many_probes_ask_the_services_once_a_second(http, served, monkeypatch) -> None:
    looks = []

    async def status(request, call):
        looks.append(len(looks))
        return pb.GetStatusResponse(services=[pb.ServiceInfo(name="gateway", ready=True)])

    monkeypatch.setattr(served.gateway, "GetStatus", status)
    time.sleep(1.1 * recent.KEPT_S)  # of an earlier look
    started = time.monotonic()
    assert {http.get("/readyz").status_code for _ in range(40)} == {200}
    assert 1 <= len(looks) <= 2 + (time.monotonic() - started) / recent.KEPT_S


def test_status_names_every_service(http) -> None:
    services = http.get("/v1/status").json()["services"]
    assert [one["name"] for one in services] == ["gateway", "encoder", "scope", "memory", "decoder"]
    assert all(one["ready"] for one in services)


def test_every_call_says_which_method_of_the_contract_it_is(http) -> None:
    (service,) = pb.DESCRIPTOR.services_by_name.values()
    document = http.get("/openapi.json").json()
    methods = {
        (path, operation.get("x-larimar-method"))
        for path, item in document["paths"].items()
        for operation in item.values()
    }
    for path, method in methods:  # a key is asked for by the path, its scope by the method
        assert (method in service.methods_by_name) == path.startswith(GUARDED), path
    assert len(document["paths"]) >= 29
