"""The clients against a real socket: errors, retries, deadlines, streams; blocking and awaited."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from awaited import Awaited
from command_line import free_port
from gateway_double import DoubleServer, GatewayDouble, store_down

import larimar
from larimar import calls, errors
from larimar.aio import AsyncClient
from larimar.client import Client
from larimar.results import Fact


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


# What comes back


def test_every_call_gives_its_result(client):
    info = client.create_bank("demo", addressing="gaussian")
    assert (info.bank, info.addressing, info.created) == ("demo", "gaussian", True)
    assert client.create_bank("demo", addressing="gaussian").created is False
    edit = client.write("The capital of Velmora is", "Tarsin", bank="demo", rephrasings=["Velmora"])
    assert (edit.version, edit.bank, edit.duplicate, len(edit.event_id)) == (1, "demo", False, 32)
    assert client.fact(edit.fact_id, bank="demo") == Fact(
        edit.fact_id, "The capital of Velmora is", "Tarsin", 1, ("Velmora",)
    )
    answer = client.ask("The capital of Velmora is", bank="demo", min_version=edit.version)
    assert (answer.text, answer.in_scope, answer.fact_id) == (" Tarsin", True, edit.fact_id)
    assert (answer.version, answer.bank, answer.finish_reason, answer.tokens) == (
        1,
        "demo",
        "stop",
        7,
    )
    assert client.ask("Something else", bank="demo").fact_id is None
    score = client.score("The capital of Velmora is", ["a", "bcd"], bank="demo")
    assert [one.logprob for one in score.candidates] == [-1.5, -3.5]
    assert (score.best.candidate, score.best.mean_logprob) == ("a", -0.75)
    assert (score.in_scope, score.fact_id) == (True, edit.fact_id)
    gone = client.forget(edit.fact_id, bank="demo")
    assert (gone.fact_id, gone.version) == (edit.fact_id, 2)
    assert [event.kind for event in client.events("demo")] == ["WRITE", "FORGET"]
    assert [event.version for event in client.events("demo", after=1)] == [2]
    digest = client.digest("demo")
    assert (digest.bank, digest.version, digest.facts, digest.digest) == ("demo", 2, 0, "d1")
    replay = client.replay("demo")
    assert (replay.events, replay.matches, replay.folded_sha256) == (2, True, "f1")
    assert client.checkpoint("demo").bytes == 77
    assert [bank.bank for bank in client.list_banks()] == ["default", "demo"]
    assert client.get_bank("demo").config_digest == "c0ffee"
    client.delete_bank("demo")
    with pytest.raises(errors.NotFound):
        client.get_bank("demo")
    status = client.status()
    assert [(one.name, one.ready) for one in status.services] == [
        ("encoder", True),
        ("memory", False),
    ]
    assert (status.model_digest, status.version) == ("m1", "0.1.0")


def test_settings_of_an_answer_reach_the_gateway(client, gateway):
    client.ask("p", max_tokens=5, temperature=0.5, top_p=0.25, seed=2**63, stop=["."])
    client.ask("p", no_memory=True)
    client.ask("p", top_p=1e-50)
    first, second, third = gateway.requests["Ask"]
    assert (first.sampling.max_tokens, first.sampling.temperature) == (5, 0.5)
    assert (first.sampling.top_p, first.sampling.seed) == (0.25, 2**63)
    assert (list(first.sampling.stop), first.no_memory, second.no_memory) == (["."], False, True)
    assert second.sampling.top_p == 0 < third.sampling.top_p < 1e-6  # 0 would be the default


def test_facts_and_events_come_page_by_page(client, gateway, monkeypatch):
    monkeypatch.setattr(calls, "PAGE_SIZE", 3)
    edits = list(client.write_many({"prompt": f"p{n}", "answer": "a"} for n in range(7)))
    assert [fact.fact_id for fact in client.facts()] == sorted(edit.fact_id for edit in edits)
    assert [event.version for event in client.events()] == list(range(1, 8))
    assert len(gateway.requests["ListFacts"]) == len(gateway.requests["ListEvents"]) == 3


def test_a_fact_that_is_not_live_is_not_found(client):
    with pytest.raises(errors.NotFound) as caught:
        client.fact("nothing")
    assert caught.value.reason == "UNKNOWN_FACT"


# Errors and retries


@pytest.mark.parametrize(
    "error", [kind for kind in errors.BY_CODE.values() if kind is not errors.Unavailable]
)
def test_an_answer_that_is_an_error_is_raised_as_its_class_and_not_retried(client, gateway, error):
    gateway.faults["GetBank"].append(error("what went wrong", "A_REASON"))
    with pytest.raises(error) as caught:
        client.get_bank()
    assert (caught.value.message, caught.value.reason) == ("what went wrong", "A_REASON")
    assert len(gateway.requests["GetBank"]) == 1


@pytest.mark.parametrize("code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.ABORTED])
def test_a_code_not_in_use_is_the_base_error_with_the_code_as_reason(client, gateway, code):
    gateway.faults["GetBank"].append(code)
    with pytest.raises(errors.LarimarError) as caught:
        client.get_bank()
    assert (type(caught.value), caught.value.reason) == (errors.LarimarError, code.name)


def test_an_edit_keeps_its_event_id_over_all_attempts(client, gateway):
    gateway.faults["Write"].extend([store_down(), store_down()])
    edit = client.write("p", "a")
    assert [request.event_id for request in gateway.requests["Write"]] == [edit.event_id] * 3
    assert (edit.version, edit.duplicate) == (1, False)


def test_an_edit_whose_reply_was_lost_is_made_once(client, gateway):
    original = gateway._append

    def append_then_fail(*args):
        original(*args)
        gateway._append = original
        raise store_down()

    gateway._append = append_then_fail
    edit = client.write("p", "a")
    assert len(gateway.requests["Write"]) == 2
    assert len(gateway.banks["default"]["events"]) == 1
    assert (edit.version, edit.duplicate) == (1, False)


def test_two_calls_are_two_events_and_a_given_event_id_is_one(client):
    assert client.write("p", "a").event_id != client.write("p", "a").event_id
    first, again = (client.write("p", "b", event_id="e1") for _ in range(2))
    assert (first.version, first.duplicate) == (again.version, False)
    assert again.duplicate is True
    with pytest.raises(errors.Conflict):
        client.write("p", "c", event_id="e1")


def test_unavailable_for_longer_than_the_deadline_is_raised_with_its_reason(client, gateway):
    gateway.faults["Forget"].extend(store_down() for _ in range(50))
    begun = time.monotonic()
    with pytest.raises(errors.Unavailable) as caught:
        client.forget("f", event_id="e7", timeout_s=2.0)
    assert time.monotonic() - begun < 20
    assert 1 < len(gateway.requests["Forget"]) < 10
    assert caught.value.reason == "STORE_DOWN"
    assert "the store does not answer" in caught.value.message
    assert "event id e7" in caught.value.message


def test_a_deadline_that_passes_after_unavailable_is_reported_as_that(client, gateway):
    gateway.faults["Forget"].extend([store_down(), 30])
    with pytest.raises(errors.Unavailable) as caught:
        client.forget("f", timeout_s=2.0)
    assert caught.value.reason == "STORE_DOWN"
    assert len(gateway.requests["Forget"]) == 2


def test_a_call_ends_at_its_deadline_and_says_how_to_retry(client, gateway):
    client.status()  # it is connected
    gateway.faults["Write"].append(30)
    begun = time.monotonic()
    with pytest.raises(errors.DeadlineExceeded) as caught:
        client.write("p", "a", event_id="e1", timeout_s=0.7)
    assert time.monotonic() - begun < 20
    assert "within 0.7 s" in caught.value.message
    assert "event id e1" in caught.value.message
    assert len(gateway.requests["Write"]) == 1


def test_nothing_listening_says_how_to_start(kind):
    target = f"127.0.0.1:{free_port()}"
    client = kind(target, connect_timeout_s=0.3)
    begun = time.monotonic()
    with pytest.raises(errors.Unavailable) as caught:
        client.write("p", "a")
    assert time.monotonic() - begun < 4.5
    assert caught.value.message == f"nothing answers at {target}; start it with `larimar up`"
    client.close()


def test_a_pipeline_that_restarts_is_waited_for(kind):
    first = DoubleServer(free_port())
    client = kind(first.target, timeout_s=120)
    client.status()
    first.stop()
    revived: list[DoubleServer] = []
    timer = threading.Timer(0.7, lambda: revived.append(DoubleServer(first.port)))
    timer.start()
    try:
        assert client.write("p", "a").version == 1
    finally:
        timer.join()
        revived[0].stop()
        client.close()


def test_a_pipeline_that_went_away_is_said_to_be_away(kind):
    server = DoubleServer()
    client = kind(server.target)
    client.status()
    server.stop()
    with pytest.raises(errors.Unavailable, match=r"nothing answers at|lost the connection to"):
        client.status(timeout_s=0.5)
    client.close()


def test_a_closed_client_says_so(server):
    with larimar.connect(server.target) as client:
        client.status()
    with pytest.raises(errors.FailedPrecondition, match="closed"):
        client.status()


def test_a_closed_async_client_says_so(server):
    async def ask_after_closing() -> None:
        async with larimar.connect_async(server.target) as client:
            await client.status()
        await client.status()

    with pytest.raises(errors.FailedPrecondition, match="closed"):
        asyncio.run(ask_after_closing())


# What is refused before it is sent


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": 3, "answer": "a"}, "prompt"),
        ({"prompt": "p", "answer": "\ud800"}, "answer holds a character"),
        ({"prompt": "p", "answer": "a", "rephrasings": "one text"}, "rephrasings must be a list"),
        ({"prompt": "p" * (8 * 2**20), "answer": "a"}, "at most 8388608"),
        ({"prompt": "p", "answer": "a", "timeout_s": 0}, "timeout_s"),
        ({"prompt": "p", "answer": "a", "timeout_s": float("inf")}, "timeout_s"),
    ],
)
def test_a_malformed_edit_is_refused_by_name_and_not_sent(client, gateway, arguments, message):
    with pytest.raises(errors.InvalidArgument, match=message):
        client.write(**arguments)
    assert not gateway.requests["Write"]


@pytest.mark.parametrize("call", [{"seed": -1}, {"max_tokens": 2**40}, {"stop": "x"}])
def test_a_malformed_question_is_refused_by_name(client, call):
    with pytest.raises(errors.InvalidArgument, match=next(iter(call))):
        client.ask("p", **call)


def test_an_unknown_addressing_is_refused(client):
    with pytest.raises(errors.InvalidArgument, match="slots, pinv, gaussian"):
        client.create_bank("b", addressing="hash")


@pytest.mark.parametrize("target", ["localhost", "localhost:", ":9000", "a:0", "a:99999", "a b:1"])
def test_a_target_without_host_or_port_is_refused(target):
    with pytest.raises(errors.InvalidArgument, match="HOST:PORT"):
        larimar.connect(target)
    with pytest.raises(errors.InvalidArgument, match="HOST:PORT"):
        larimar.connect_async(target)


@pytest.mark.parametrize("target", ["localhost:9000", "[::1]:9000", "dns:///h:1", "unix:/tmp/s"])
def test_a_target_with_host_and_port_is_taken(target):
    assert calls.check_target(target) == target


def test_messages_above_the_default_limit_of_grpc_arrive(client, gateway):
    gateway.answer = ["x" * (5 * 2**20)]
    assert len(client.ask("p" * (5 * 2**20)).text) == 5 * 2**20


def test_connect_async_may_be_awaited(server):
    async def ask() -> str:
        client = await larimar.connect_async(server.target)
        try:
            return (await client.ask("p")).text
        finally:
            await client.close()

    assert asyncio.run(ask()) == " Tarsin"


def test_threads_may_share_a_client(server):
    with larimar.connect(server.target) as client, ThreadPoolExecutor(8) as threads:
        edits = list(threads.map(lambda n: client.write(f"p{n}", "a"), range(40)))
    assert sorted(edit.version for edit in edits) == list(range(1, 41))


def test_connect_gives_a_context_manager(server):
    with larimar.connect(server.target) as client:
        assert client.target == server.target
        assert client.write("p", "a").version == 1


# The face of the package


def public(cls) -> dict[str, list[str]]:
    return {
        name: list(inspect.signature(method).parameters)
        for name, method in inspect.getmembers(cls, inspect.isfunction)
        if not name.startswith("_")
    }


def test_both_clients_have_the_same_methods():
    assert public(Client) == public(AsyncClient)
    assert sorted(public(Client)) == [
        "ask",
        "ask_stream",
        "censor",
        "checkpoint",
        "close",
        "create_bank",
        "dead_letters",
        "delete_bank",
        "diff",
        "digest",
        "dream",
        "drop_dead_letters",
        "edit",
        "erase",
        "erase_receipt",
        "events",
        "export_bank",
        "fact",
        "facts",
        "forget",
        "fork",
        "get_bank",
        "history",
        "import_bank",
        "ingest",
        "ingest_pieces",
        "list_banks",
        "merge",
        "publish",
        "publish_many",
        "recall",
        "reencode",
        "replay",
        "requeue_dead_letters",
        "score",
        "status",
        "watch",
        "write",
        "write_many",
    ]


def test_the_names_of_the_package_are_these():
    assert larimar.__all__ == [
        "Answer",
        "AsyncClient",
        "Cancelled",
        "Client",
        "Conflict",
        "DataLoss",
        "DeadlineExceeded",
        "Edit",
        "EraseReceipt",
        "FailedEdit",
        "FailedPrecondition",
        "FailedWrite",
        "InvalidArgument",
        "LarimarError",
        "MergeResult",
        "NotFound",
        "PermissionDenied",
        "ResourceExhausted",
        "Score",
        "Unauthenticated",
        "Unavailable",
        "__version__",
        "connect",
        "connect_async",
        "load",
    ]
    for name in set(larimar.__all__) - {"load"}:
        assert getattr(larimar, name) is not None
    assert set(larimar.__all__) <= set(dir(larimar))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = larimar.nothing


def test_importing_the_package_loads_neither_torch_nor_grpc():
    check = (
        "import sys, larimar; from larimar import Edit, NotFound;"
        "print([m for m in ('torch', 'grpc', 'numpy', 'ray', 'redis') if m in sys.modules]);"
        "import larimar.client; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "False"]
