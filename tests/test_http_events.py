"""Edit events over HTTP, made by the official CloudEvents package where it can."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx2 as httpx
import pytest
from cloudevents.v1.conversion import to_binary, to_structured
from cloudevents.v1.http import CloudEvent

from services.gateway.http import cloud_events
from services.gateway.http.cloud_events import BATCH, MAX_BATCH_EVENTS, STRUCTURED
from services.inbox import Death, Settled
from tests.events import event_json
from tests.gateway_calls import ANSWER, PROMPT
from tests.in_process import new_bank_name
from tests.served_http import ServedHttp, error_of

WRITE = {"prompt": PROMPT, "answer": ANSWER}


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
    name = new_bank_name()
    http.post("/v1/banks", json={"bank": name})
    return name


def sdk_event(bank: str, event_id: str, data: dict, kind: str = "write") -> CloudEvent:
    attributes = {
        "type": f"io.larimar.edit.{kind}.v1",
        "source": "/tests",
        "id": event_id,
        "subject": bank,
        "datacontenttype": "application/json",
    }
    return CloudEvent(attributes, data)


def post(http: httpx.Client, body: bytes, kind: str, **headers: str) -> httpx.Response:
    return http.post("/v1/events", content=body, headers={"content-type": kind, **headers})


@pytest.mark.parametrize("made", [to_structured, to_binary])
def test_an_event_of_the_package_is_published_once(http, bank, made) -> None:
    headers, body = made(sdk_event(bank, "e-1", WRITE))
    first, again = (http.post("/v1/events", content=body, headers=headers) for _ in range(2))
    assert first.status_code == 200, first.text
    assert (first.json()["bank"], first.json()["version"]) == (bank, 1)
    assert (first.json()["duplicate"], again.json()["duplicate"]) == (False, True)
    (fact,) = http.get(f"/v1/banks/{bank}/facts").json()["facts"]
    assert (fact["prompt"], fact["answer"]) == (PROMPT, ANSWER)
    (event,) = http.get(f"/v1/banks/{bank}/events").json()["events"]
    assert event["event_id"] == "e-1"


def test_attributes_in_headers_are_percent_decoded(http, bank) -> None:
    attributes = {
        "ce-specversion": "1.0",
        "ce-id": "caf%C3%A9",
        "ce-source": "/tests",
        "ce-type": "io.larimar.edit.write.v1",
        "ce-subject": bank,
        "ce-extension": "anything",
    }
    sent = post(http, json.dumps(WRITE).encode(), "application/json; charset=utf-8", **attributes)
    assert sent.json()["id"] == "café"


def test_a_batch_has_a_result_for_each_event_in_its_order(http, bank) -> None:
    second = new_bank_name()
    events = [
        event_json("w1", bank=bank, prompt="p1", fact_id="f1"),
        event_json("bad", bank=bank, prompt=""),
        b'{"no": "event"}',
        event_json("w2", bank=bank, prompt="p2", fact_id="f2"),
        event_json("gone", bank=second, prompt="p"),
        event_json("x1", kind="forget", bank=bank, fact_id="f1"),
        b'{"id": "twice", "id": "twice"}',
        b"[]",
    ]
    answered = post(http, b" [" + b" ,\n".join(events) + b"] ", BATCH)
    results = answered.json()["results"]
    codes = [one["status"]["reason"] if one["status"] else "" for one in results]
    bad = "BAD_EVENT"
    assert codes == ["", bad, bad, "", "UNKNOWN_BANK", "", bad, bad]
    versions = [one["result"]["version"] for one in results if not one["status"]]
    assert versions == [1, 2, 3]
    facts = http.get(f"/v1/banks/{bank}/facts").json()["facts"]
    assert [fact["fact_id"] for fact in facts] == ["f2"]
    assert post(http, b"[]", BATCH).json() == {"results": []}


@pytest.mark.parametrize(
    ("body", "kind", "status", "code"),
    [
        (b"{}", STRUCTURED, 400, "BAD_EVENT"),
        (b"{", STRUCTURED, 400, "BAD_EVENT"),
        (b"{}", BATCH, 400, "BAD_EVENT"),
        (b"[{}", BATCH, 400, "BAD_EVENT"),
        (b"[{},]", BATCH, 400, "BAD_EVENT"),
        (b"[{} {}]", BATCH, 400, "BAD_EVENT"),
        (b"[{}] x", BATCH, 400, "BAD_EVENT"),
        (b"\xff", BATCH, 400, "BAD_EVENT"),
        (b"[" * 100_000, BATCH, 400, "BAD_EVENT"),
        (b"", BATCH, 400, "BAD_EVENT"),
        (b"{}", "application/json", 415, "BAD_CONTENT_TYPE"),
        (b"{}", "text/plain", 415, "BAD_CONTENT_TYPE"),
        (event_json("e", bank="nobody", prompt="p"), STRUCTURED, 404, "UNKNOWN_BANK"),
        (event_json("e", kind="forget", fact_id="nothing"), STRUCTURED, 404, "UNKNOWN_FACT"),
    ],
)
def test_what_is_no_event_is_refused(http, body, kind, status, code) -> None:
    refused = post(http, body, kind)
    assert (refused.status_code, error_of(refused)["code"]) == (status, code)


def test_headers_that_are_no_event_are_refused(http) -> None:
    refused = post(http, b"{}", "application/json", **{"ce-specversion": "0.3", "ce-id": "1"})
    assert (refused.status_code, error_of(refused)["code"]) == (400, "BAD_EVENT")


def test_a_batch_past_the_limit_is_refused_whole(http, bank, monkeypatch) -> None:
    monkeypatch.setattr(cloud_events, "MAX_BATCH_EVENTS", 1)
    events = [event_json(f"e{number}", bank=bank, prompt="p") for number in range(2)]
    refused = post(http, b"[" + b",".join(events) + b"]", BATCH)
    assert (refused.status_code, error_of(refused)["code"]) == (400, "TOO_MANY_ITEMS")
    assert http.get(f"/v1/banks/{bank}").json()["info"]["version"] == 0


def test_a_batch_is_read_no_further_than_its_limit(http) -> None:
    refused = post(http, b"[" + b"0," * (MAX_BATCH_EVENTS + 1) + b"no JSON", BATCH)
    assert (refused.status_code, error_of(refused)["code"]) == (400, "TOO_MANY_ITEMS")


def test_dead_letters_are_listed_requeued_and_dropped(http, served) -> None:
    async def bury() -> None:
        inbox = served.gateway.inbox
        for number in range(2):
            await inbox.append("default", event_json(f"dead-{number}", prompt="p"))
        for entry in await inbox.take("default", 2, 0):
            death = Death(entry.event, "UNKNOWN_BANK", "no such bank", 1)
            await inbox.settle("default", [Settled(entry.entry_id, death)])

    served.run(bury())
    page = http.get("/v1/dead-letters", params={"page_size": 1}).json()
    (first,) = page["letters"]
    assert (first["reason"], page["total"]) == ("UNKNOWN_BANK", 2)
    assert json.loads(first["event"])["id"] == "dead-0"
    token = {"page_token": page["next_after"]}
    (second,) = http.get("/v1/dead-letters", params=token).json()["letters"]
    requeued = http.post("/v1/dead-letters/requeue", json={"letter_ids": [first["letter_id"]]})
    assert requeued.json() == {"requeued": 1}
    dropped = http.post("/v1/dead-letters/drop", json={"letter_ids": [second["letter_id"]]})
    assert dropped.json() == {"dropped": 1}
    assert http.get("/v1/dead-letters").json()["letters"] == []
