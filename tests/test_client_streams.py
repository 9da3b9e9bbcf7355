"""Answers that stream out and facts that stream in, over a real socket; blocking and awaited."""

from __future__ import annotations

import asyncio
import time

import pytest
from awaited import Awaited
from gateway_double import DoubleServer, GatewayDouble, store_down

import larimar
from larimar import calls, errors
from larimar.client import Client
from larimar.results import Answer, Edit, Fact, FailedWrite


@pytest.fixture
def server():
    server = DoubleServer()
    yield server
    server.stop()


@pytest.fixture
def gateway(server) -> GatewayDouble:
    return server.gateway


@pytest.fixture(params=[Client, Awaited], ids=["blocking", "awaited"])
def kind(request):
    return request.param


@pytest.fixture
def client(kind, server):
    client = kind(server.target, timeout_s=30)
    yield client
    client.close()


# Answers that stream


def test_pieces_of_an_answer_arrive_while_it_is_made(client, gateway):
    gateway.faults["AskMidway"].append("gate")
    stream = client.ask_stream("p")
    assert next(stream) == " "
    gateway.gate.set()
    *pieces, answer = stream
    assert "".join(pieces) == "Tarsin"
    assert isinstance(answer, Answer)
    assert answer.text == " Tarsin"


def test_an_abandoned_stream_is_cancelled_at_the_gateway(client, gateway):
    gateway.faults["AskMidway"].append("gate")
    stream = client.ask_stream("p")
    next(stream)
    stream.close()
    assert gateway.cancelled.wait(120)


def test_a_stream_is_retried_before_its_first_piece_only(client, gateway):
    gateway.faults["Ask"].append(store_down())
    assert list(client.ask_stream("p"))[-1].text == " Tarsin"
    gateway.faults["AskMidway"].append("down")
    stream = client.ask_stream("p")
    assert next(stream) == " "
    with pytest.raises(errors.Unavailable):
        next(stream)
    assert len(gateway.requests["Ask"]) == 3


def test_a_whole_answer_is_asked_for_again_when_its_stream_breaks(client, gateway):
    gateway.faults["AskMidway"].append("down")
    assert client.ask("p").text == " Tarsin"
    assert len(gateway.requests["Ask"]) == 2


def test_a_stream_ends_at_its_deadline(client, gateway):
    client.status()  # it is connected
    gateway.faults["AskMidway"].append("gate")
    stream = client.ask_stream("p", timeout_s=1.5)
    next(stream)
    with pytest.raises(errors.DeadlineExceeded):
        next(stream)


def test_an_answer_without_provenance_is_an_error(client, gateway):
    gateway._provenance = lambda request, bank: None
    with pytest.raises(errors.LarimarError, match="where it came from"):
        client.ask("p")


# Many facts


def test_many_facts_give_a_result_each_in_order_and_bad_ones_fail_alone(client):
    facts = [
        {"prompt": "p0", "answer": "a", "event_id": "e0"},
        {"prompt": "", "answer": "a", "event_id": "e1"},
        {"answer": "a"},
        {"prompt": "p3", "answer": "other", "event_id": "e0"},
        {"prompt": "p4", "answer": "a", "colour": "red"},
        Fact("f5", "p5", "a", 9, ("r",)),
        {"prompt": "p6", "answer": "a", "id": "f6"},
        {"prompt": "p0", "answer": "a", "event_id": "e0"},
        {"prompt": 7, "answer": "a"},
    ]
    results = list(client.write_many(facts))
    assert [type(result) for result in results] == [
        Edit,
        FailedWrite,
        FailedWrite,
        FailedWrite,
        FailedWrite,
        Edit,
        Edit,
        Edit,
        FailedWrite,
    ]
    assert [results[n].index for n in (1, 2, 3, 4, 8)] == [1, 2, 3, 4, 8]
    assert (results[1].event_id, results[1].error.reason) == ("e1", "EMPTY_TEXT")
    assert "'prompt'" in results[2].error.message
    assert isinstance(results[3].error, errors.Conflict)
    assert "'colour'" in results[4].error.message
    assert (results[5].fact_id, results[6].fact_id) == ("f5", "f6")
    assert (results[0].duplicate, results[7].duplicate) == (False, True)
    assert [fact.rephrasings for fact in client.facts() if fact.fact_id == "f5"] == [("r",)]


def test_facts_are_taken_no_further_ahead_than_the_bound(client, monkeypatch):
    monkeypatch.setattr(calls, "MAX_IN_FLIGHT", 4)
    taken = 0

    def source():
        nonlocal taken
        for n in range(40):
            taken += 1
            yield {"prompt": f"p{n}", "answer": "a"}

    given = 0
    for _ in client.write_many(source()):
        given += 1
        assert taken - given < 4
    assert given == 40


def test_a_broken_stream_of_facts_resumes_and_writes_each_once(client, gateway):
    gateway.write_many_dies_after = [3, 0, 4]
    results = list(client.write_many({"prompt": f"p{n}", "answer": "a"} for n in range(10)))
    assert [result.version for result in results] == list(range(1, 11))
    assert len(gateway.banks["default"]["events"]) == 10
    assert len(gateway.requests["WriteMany"]) == 4
    sent: dict[str, set[str]] = {}
    for stream in gateway.requests["WriteMany"]:
        for request in stream:
            sent.setdefault(request.prompt, set()).add(request.event_id)
    assert all(len(ids) == 1 for ids in sent.values())


def test_a_fact_that_met_a_store_that_is_down_is_sent_again(client, gateway):
    gateway.faults["WriteMany"].append(store_down())
    results = list(client.write_many({"prompt": f"p{n}", "answer": "a"} for n in range(3)))
    assert all(isinstance(result, Edit) and not result.duplicate for result in results)
    assert len(gateway.banks["default"]["events"]) == 3


def test_facts_of_unknown_outcome_are_named_before_the_error(client, gateway):
    gateway.write_many_dies_after = [2] + [0] * 50
    stream = client.write_many(
        ({"prompt": f"p{n}", "answer": "a", "event_id": f"e{n}"} for n in range(4)), timeout_s=2.0
    )
    results = [next(stream) for _ in range(4)]
    assert [type(result) for result in results] == [Edit, Edit, FailedWrite, FailedWrite]
    assert [result.event_id for result in results[2:]] == ["e2", "e3"]
    assert results[2].error.retry_safe
    with pytest.raises(errors.Unavailable):
        next(stream)


@pytest.mark.parametrize("count", [1, 256])
def test_facts_for_an_unknown_bank_raise_at_once(client, gateway, count):
    facts = [{"prompt": f"p{n}", "answer": "a"} for n in range(count)]
    with pytest.raises(errors.NotFound, match="no bank"):
        next(client.write_many(facts, bank="nowhere"))
    assert len(gateway.requests["WriteMany"]) <= 2


def test_a_slow_stream_of_facts_is_no_error_while_results_come(client, gateway):
    original = gateway._append

    def slow(*args):
        time.sleep(0.25)
        return original(*args)

    gateway._append = slow
    facts = ({"prompt": f"p{n}", "answer": "a"} for n in range(8))
    assert len(list(client.write_many(facts, timeout_s=1.5))) == 8


def test_facts_may_come_asynchronously(server):
    async def source():
        for n in range(3):
            yield {"prompt": f"p{n}", "answer": "a"}

    async def write() -> list:
        async with larimar.connect_async(server.target) as client:
            return [result async for result in client.write_many(source())]

    assert [result.version for result in asyncio.run(write())] == [1, 2, 3]
