"""Batches, erasures, forks, archives and watches from both clients, over a real socket."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time

import grpc
import pytest
from awaited import Awaited
from gateway_double import DoubleServer, GatewayDouble, store_down

import larimar
from larimar import errors, streams
from larimar.archive import Archive
from larimar.client import Client
from larimar.errors import Conflict, DataLoss, FailedPrecondition
from larimar.results import Edit, Fact, FailedEdit, MergeConflict, Origin
from larimar.v1 import common_pb2
from tests.archives import log_of


@pytest.fixture
def server():
    server = DoubleServer()
    yield server
    server.stop()


@pytest.fixture
def gateway(server) -> GatewayDouble:
    return server.gateway


@pytest.fixture(params=[Client, Awaited], ids=["blocking", "awaited"])
def client(request, server):
    client = request.param(server.target, timeout_s=30)
    yield client
    client.close()


# Edits


def test_a_batch_gives_a_result_for_each_item_in_order(client, gateway):
    results = client.edit(
        [
            {"write": {"prompt": "p", "answer": "a", "id": "f1", "event_id": "e1"}},
            {"forget": {"fact_id": "nothing"}},
            {"censor": {"prompt": "secret", "rephrasings": ["a secret"]}},
            {"forget": {"id": "f1"}},
        ]
    )
    written, refused, censored, gone = results
    assert written == Edit("f1", "e1", 1, "default")
    assert isinstance(refused, FailedEdit) and refused.index == 1
    assert (type(refused.error), refused.error.reason) == (errors.NotFound, "UNKNOWN_FACT")
    assert len(refused.event_id) == 32
    assert (censored.version, gone.fact_id, gone.version) == (2, "f1", 3)
    (request,) = gateway.requests["Edit"]
    assert list(request.items[2].censor.rephrasings) == ["a secret"]
    assert len(request.items[3].forget.event_id) == 32


def test_a_batch_keeps_its_event_ids_over_all_attempts(client, gateway):
    gateway.faults["Edit"].extend([store_down(), store_down()])
    (edit,) = client.edit([{"write": {"prompt": "p", "answer": "a"}}])
    sent = [one.items[0].write.event_id for one in gateway.requests["Edit"]]
    assert sent == [edit.event_id] * 3


def test_an_item_that_is_there_already_is_a_duplicate_under_a_given_id_only(client):
    item = {"write": {"prompt": "p", "answer": "a", "event_id": "e1"}}
    assert [client.edit([item])[0].duplicate for _ in range(2)] == [False, True]


def test_a_write_and_a_batch_say_which_version_they_expect(client, gateway):
    client.write("p", "a", expected_version=0)
    client.write("p", "a")
    client.edit([{"write": {"prompt": "p", "answer": "a", "expected_version": 7}}])
    first, second = gateway.requests["Write"]
    assert first.HasField("expected_version") and first.expected_version == 0
    assert not second.HasField("expected_version")
    assert gateway.requests["Edit"][0].items[0].write.expected_version == 7


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({}, "an edit is"),
        ({"write": {"prompt": "p", "answer": "a"}, "forget": {"fact_id": "f"}}, "an edit is"),
        ({"erase": {"fact_id": "f"}}, "an edit is"),
        ("text", "an edit is"),
        ({"forget": "f"}, "fields by name"),
        ({"forget": {}}, "needs a field 'fact_id'"),
        ({"forget": {"fact_id": None}}, "needs a field 'fact_id'"),
        ({"forget": {"fact_id": 7}}, "fact_id"),
        ({"forget": {"fact_id": "f", "prompt": "p"}}, "no field 'prompt'"),
        ({"censor": {"answer": "a"}}, "no field 'answer'"),
        ({"write": {"prompt": "p"}}, "needs a field 'answer'"),
        ({"write": {"prompt": "p", "answer": "a", "expected_version": "new"}}, "expected_version"),
    ],
)
def test_a_malformed_item_is_refused_by_its_place_and_nothing_is_sent(
    client, gateway, item, message
):
    good = {"forget": {"fact_id": "f"}}
    with pytest.raises(errors.InvalidArgument, match=message) as caught:
        client.edit([good, item])
    assert caught.value.message.startswith("item 1: ")
    assert not gateway.requests["Edit"]


def test_a_prompt_is_censored(client, gateway):
    edit = client.censor("The password is", event_id="e1")
    assert (edit.version, edit.event_id, edit.duplicate) == (1, "e1", False)
    assert client.censor("The password is", event_id="e1").duplicate
    assert client.fact(edit.fact_id).answer == "unknown"


def test_a_fact_is_censored_by_its_id(client, gateway):
    client.write("The password is", "4711", fact_id="password")
    assert client.censor("The password is", fact_id="password").fact_id == "password"
    (edit,) = client.edit([{"censor": {"prompt": "The password is", "id": "password"}}])
    assert edit.fact_id == "password"
    assert [fact.answer for fact in client.facts()] == ["unknown"]


# Erasure


def test_an_erasure_is_waited_for_and_gives_its_receipt(client, gateway):
    client.write("p", "a", fact_id="f1")
    seen = []
    receipt = client.erase("f1", event_id="e1", progress=lambda one: seen.append(one.step))
    assert (receipt.done, receipt.event_id, receipt.step) == (True, "e1", "DONE")
    assert seen == list(larimar.results.ERASE_STEPS)
    assert (receipt.scan.found_before, receipt.scan.found) == (3, 0)
    assert (receipt.banks[0].versions, receipt.banks[0].replay_matches) == ((3,), True)
    assert receipt.finished_ms - receipt.started_ms == 1500
    assert client.erase_receipt("e1") == receipt
    assert list(gateway.requests["Erase"][0].fact_ids) == ["f1"]


def test_an_erasure_that_is_not_waited_for_answers_after_its_first_step(client, gateway):
    for fact_id in ("f1", "f2"):
        client.write(fact_id, "a", fact_id=fact_id)
    receipt = client.erase(["f1", "f2"], wait=False)
    assert (receipt.done, receipt.step, receipt.scan) == (False, "APPENDED", None)
    assert len(receipt.fact_id_sha256) == 2
    assert not gateway.requests["GetErase"]


def test_an_erasure_that_takes_longer_says_how_far_it_is(client, gateway):
    client.write("p", "a", fact_id="f1")
    gateway.erasures_last = 3
    begun = time.monotonic()
    with pytest.raises(errors.DeadlineExceeded, match=r"only to REMOVED.*receipt of e1"):
        client.erase("f1", event_id="e1", timeout_s=3.0)
    assert time.monotonic() - begun < 20


def test_an_erasure_outlives_a_store_that_is_away_for_a_moment(client, gateway):
    client.write("p", "a", fact_id="f1")
    gateway.faults["Erase"].append(store_down())
    gateway.faults["GetErase"].append(store_down())
    assert client.erase("f1").done
    assert len({request.event_id for request in gateway.requests["Erase"]}) == 1


def test_an_unknown_fact_or_receipt_is_not_found(client):
    with pytest.raises(errors.NotFound):
        client.erase("nothing")
    with pytest.raises(errors.NotFound):
        client.erase_receipt("nothing")


# Past versions


def test_past_versions_and_stale_answers_are_asked_for(client, gateway):
    client.write("p", "a", fact_id="f1")
    assert client.digest(at=1).erase_count == 1
    list(client.facts(at=1))
    client.fact("f1", at=1)
    answer = client.ask("p", at=1, allow_stale=True, noise=0.25, noise_seed=-3)
    *_, streamed = client.ask_stream("p", at=1, allow_stale=True)
    score = client.score("p", ["a"], at=1, allow_stale=True)
    assert answer.stale and streamed.stale and score.stale
    assert not client.ask("p").stale
    sent = gateway.requests
    assert [one.at_version for one in sent["ListFacts"]] == [1, 1]
    assert [one.at_version for one in sent["Ask"]] == [1, 1, 0]
    assert (sent["Ask"][0].noise, sent["Ask"][0].noise_seed) == (0.25, -3)
    assert (sent["Score"][0].at_version, sent["Digest"][0].at_version) == (1, 1)


def test_the_history_of_a_fact_is_newest_first(client):
    for answer in ("a", "b"):
        client.write("p", answer, fact_id="f1")
    client.write("q", "a")
    assert [event.version for event in client.history("f1")] == [2, 1]
    assert client.history("nothing") == []


# Forks


def test_a_fork_names_its_origin(client):
    for n in range(3):
        client.write(f"p{n}", "a")
    info = client.fork("default", "copy", at=2)
    assert (info.bank, info.version, info.created) == ("copy", 2, True)
    assert info.origin == Origin("default", 2, "c")
    assert (info.erase_count, info.fill) == (1, 0.25)
    assert client.get_bank("default").origin is None
    with pytest.raises(Conflict):
        client.fork("default", "copy")


def test_a_merge_tells_what_it_did(client, gateway):
    gateway.conflicts = 1
    result = client.merge("copy", "default", policy="theirs", dry_run=True, merge_id="m1")
    assert (result.source, result.target, result.merge_id) == ("copy", "default", "m1")
    assert (result.written, result.forgotten, result.version) == (4, 1, 7)
    assert (result.base_version, result.source_version, result.target_version) == (1, 3, 2)
    assert result.conflicts == (MergeConflict("f1", 0, 2, 3),)
    assert (result.conflict_count, result.overtaken, result.dry_run) == (1, ("f9",), True)
    (request,) = gateway.requests["MergeBank"]
    assert (request.policy, request.dry_run) == (3, True)
    with pytest.raises(errors.InvalidArgument, match="fail, ours, theirs"):
        client.merge("copy", "default", policy="mine")


def test_a_merge_keeps_its_id_over_all_attempts(client, gateway):
    gateway.faults["MergeBank"].append(store_down())
    result = client.merge("copy", "default")
    assert [one.merge_id for one in gateway.requests["MergeBank"]] == [result.merge_id] * 2


def test_differences_come_page_by_page_of_one_pair_of_versions(client, gateway):
    changes = list(client.diff("default", 1))
    assert [(one.kind, one.fact_id) for one in changes] == [
        ("ADDED", "a"),
        ("CHANGED", "b"),
        ("REMOVED", "c"),
    ]
    assert changes[1].before == Fact("b", "p", "old", 1)
    assert (changes[0].before, changes[2].after) == (None, None)
    assert [one.to_version for one in gateway.requests["DiffBank"]] == [0, 6]
    list(client.diff("default", 1, 2, to_bank="copy"))
    assert gateway.requests["DiffBank"][-1].to_bank == "copy"


# Archives


def test_an_export_is_what_the_gateway_streamed(client, gateway, tmp_path):
    told = []
    result = client.export_bank(
        tmp_path / "out", bank="archived", progress=lambda done, of: told.append((done, of))
    )
    header, records = gateway.archive
    found = Archive(tmp_path / "out")
    assert list(found.records()) == records and found.header == header
    assert (result.bank, result.version, result.digest) == ("archived", 7, "d" * 64)
    assert (result.files, result.bytes, result.folder) == (3, found.bytes, str(tmp_path / "out"))
    assert told[-1] == (7, 7)


@pytest.mark.parametrize(
    "fault", [grpc.StatusCode.UNAVAILABLE, FailedPrecondition("erased", "ERASED_MEANWHILE")]
)
def test_an_export_that_breaks_begins_again_and_leaves_nothing(client, gateway, tmp_path, fault):
    gateway.faults["ExportMidway"].append(fault)
    client.export_bank(tmp_path / "out", bank="archived")
    assert len(gateway.requests["ExportBank"]) == 2
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]
    assert list(Archive(tmp_path / "out").records()) == gateway.archive[1]


def test_an_export_that_fails_leaves_nothing(client, gateway, tmp_path):
    gateway.faults["ExportMidway"].append(DataLoss("the log is damaged"))
    with pytest.raises(DataLoss, match="damaged"):
        client.export_bank(tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_an_export_of_a_damaged_payload_is_refused(client, gateway, tmp_path):
    header, records = log_of(2)
    gateway.archive = header, [records[1], *records[1:]]
    with pytest.raises(DataLoss, match="does not follow"):
        client.export_bank(tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_an_export_overwrites_nothing(client, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(Conflict) as caught:
        client.export_bank(tmp_path / "out")
    assert caught.value.reason == "ARCHIVE_EXISTS"


@pytest.fixture
def exported(client, tmp_path):
    client.export_bank(tmp_path / "archive", bank="archived")
    return tmp_path / "archive"


def test_an_import_sends_what_was_exported(client, gateway, exported, monkeypatch):
    monkeypatch.setattr("larimar.bank_messages.RECORDS_BYTES", 600)
    told = []
    result = client.import_bank(
        exported, bank="again", progress=lambda done, of: told.append((done, of))
    )
    assert (result.info.bank, result.info.version, result.info.created) == ("again", 7, True)
    assert (result.digest, result.erased_again) == ("d" * 64, 2)
    (requests,) = gateway.imported
    assert requests[0].HasField("header") and requests[0].header.config.bank == "again"
    assert list(requests[0].header.erased_fact_ids) == ["secret"]
    assert len(requests) > 3 and not any(one.HasField("header") for one in requests[1:])
    sent = [record for one in requests for record in one.records]
    _, records = gateway.archive
    assert [one.payload for one in sent] == [one.payload for one in records]
    assert [one.salt for one in sent] == [one.salt for one in records]
    assert [one.event.chain for one in sent] == [one.event.chain for one in records]
    assert [one.event.erased for one in sent] == [one.erased for one in records]
    assert told[-1] == (7, 7)


def test_an_import_takes_the_archives_own_name(client, gateway, exported):
    assert client.import_bank(exported).info.bank == "archived"


def test_an_import_that_breaks_is_sent_again(client, gateway, exported):
    gateway.faults["ImportMidway"].append(grpc.StatusCode.UNAVAILABLE)
    assert client.import_bank(exported).info.version == 7
    assert len(gateway.imported) == 2


def test_an_import_that_is_refused_says_why(client, gateway, exported, monkeypatch):
    monkeypatch.setattr("larimar.bank_messages.RECORDS_BYTES", 600)
    gateway.faults["ImportMidway"].append(Conflict("the name is taken", "BANK_EXISTS"))
    with pytest.raises(Conflict, match="the name is taken"):
        client.import_bank(exported)
    assert len(gateway.imported) == 1


def test_a_touched_archive_is_refused_before_anything_is_sent(client, gateway, exported):
    with (exported / "events.jsonl").open("ab") as file:
        file.write(b"\n")
    with pytest.raises(DataLoss, match=r"events\.jsonl"):
        client.import_bank(exported)
    assert not gateway.imported


def test_an_archive_that_is_touched_while_it_is_sent_is_refused(
    client, gateway, exported, monkeypatch
):
    records = Archive.records

    def touched(self):
        yield from itertools.islice(records(self), 2)
        raise DataLoss("events.jsonl is not as it was exported", "BAD_ARCHIVE")

    monkeypatch.setattr(Archive, "records", touched)
    with pytest.raises(DataLoss, match=r"events\.jsonl"):
        client.import_bank(exported)


# Watches


def test_a_watch_gives_what_is_there_and_what_comes(client, server):
    with larimar.connect(server.target) as other:
        other.write("p1", "a")
        other.write("p2", "a")
        events = client.watch(after=1)
        assert next(events).version == 2
        timer = threading.Timer(0.3, lambda: other.write("p3", "a"))
        timer.start()
        assert (next(events).version, events.close()) == (3, None)
        timer.join()


def test_a_watch_that_breaks_goes_on_where_it_was(client, gateway):
    for n in range(5):
        client.write(f"p{n}", "a")
    gateway.watch_dies_after.extend([2, 0, 1])
    events = client.watch()
    assert [next(events).version for _ in range(5)] == [1, 2, 3, 4, 5]
    events.close()
    assert [one.after_version for one in gateway.requests["Watch"]] == [0, 2, 2, 3]


def test_a_watch_is_renewed_now_and_then(client, gateway, monkeypatch):
    """A connection that died in silence is found so."""
    monkeypatch.setattr(streams, "WATCH_STREAM_S", 0.2)
    client.write("p", "a")
    begun = time.monotonic()
    events = client.watch(timeout_s=60)
    assert next(events).version == 1

    def add_when_renewed() -> None:
        while len(gateway.requests["Watch"]) < 4:
            time.sleep(0.01)
        gateway.banks["default"]["events"].append(_second())

    adds = threading.Thread(target=add_when_renewed)
    adds.start()
    assert next(events).version == 2
    took = time.monotonic() - begun
    events.close()
    adds.join()
    asked = [one.after_version for one in gateway.requests["Watch"]]
    assert asked[0] == 0 and set(asked[1:]) == {1} and 3 < len(asked) <= 2 + took / 0.2


def _second() -> common_pb2.Event:
    return common_pb2.Event(version=2, kind=common_pb2.EVENT_KIND_ERASE, fact_id="f", erased=True)


def test_a_watch_of_what_does_not_come_back_ends(client, gateway):
    gateway.faults["Watch"].extend(store_down() for _ in range(50))
    begun = time.monotonic()
    with pytest.raises(errors.Unavailable) as caught:
        next(client.watch(timeout_s=2.0))
    assert caught.value.reason == "STORE_DOWN"
    assert time.monotonic() - begun < 20


def slow_to_fail(gateway, seconds: float) -> None:
    """Every watch takes so long to begin, or to fail."""
    begin = gateway._begin

    async def slow(method, request, context) -> None:
        if method == "Watch":
            await asyncio.sleep(seconds)
        await begin(method, request, context)

    gateway._begin = slow


def test_a_watch_ends_in_its_time_though_each_attempt_takes_longer(client, gateway):
    client.write("p", "a")
    slow_to_fail(gateway, 0.3)
    gateway.faults["Watch"].extend(store_down() for _ in range(12))
    with pytest.raises(errors.Unavailable):
        next(client.watch(timeout_s=0.2))


def test_a_watch_that_breaks_after_a_long_silence_goes_on(client, gateway):
    client.write("p", "a")
    slow_to_fail(gateway, 1.5)
    gateway.faults["Watch"].append(store_down())
    assert next(client.watch(timeout_s=1.0)).version == 1


def test_a_watch_of_no_bank_is_refused(client):
    with pytest.raises(errors.NotFound):
        next(client.watch("nowhere"))


def test_a_watch_that_is_cancelled_ends_the_call(server):
    async def watch() -> None:
        async with larimar.connect_async(server.target) as client:
            await client.write("p", "a")
            task = asyncio.create_task(_drain(client.watch()))
            await asyncio.sleep(0.2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(watch())


async def _drain(events) -> None:
    async for _ in events:
        pass


def test_events_know_what_was_erased(client, gateway):
    gateway.banks["default"]["events"].extend([_second(), _second()])
    event = next(client.watch(after=1))
    assert (event.kind, event.erased) == ("ERASE", True)


# Re-encoding


def test_a_re_encoding_goes_on_where_it_broke_and_says_what_is_left(client, gateway):
    erased = FailedPrecondition("erased meanwhile", "ERASED_MEANWHILE")
    gateway.faults["ReencodeMidway"].extend([grpc.StatusCode.UNAVAILABLE, erased])
    seen = []
    result = client.reencode(
        "default", "new", encoder_digest="e1", progress=lambda *at: seen.append(at)
    )
    assert [version for version, _ in seen] == [1, 2, 3, 4, 4]
    assert {total for _, total in seen} == {5}
    assert (result.info.bank, result.info.version, result.facts) == ("new", 4, 3)
    assert (result.digest, result.behind) == ("d", 1)


def test_a_re_encoding_that_cannot_go_on_raises(client, gateway):
    gateway.faults["ReencodeMidway"].append(FailedPrecondition("edited", "OTHER_HISTORY"))
    with pytest.raises(FailedPrecondition) as raised:
        client.reencode("default", "new")
    assert raised.value.reason == "OTHER_HISTORY"
