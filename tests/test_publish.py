"""Publishing: envelopes that are strict, order within a bank, and the document that says so.

What is published through the gateway goes through the real services over a log in this process.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import json
from datetime import UTC, datetime

import jsonschema
import pytest
import yaml
from cloudevents.v1.conversion import to_structured
from cloudevents.v1.http import CloudEvent as SdkEvent
from hypothesis import given
from hypothesis import strategies as st

from larimar.aio import AsyncClient
from larimar.client import Client
from larimar.client_publishing import GROUP_EVENTS, FailedPublish, Published
from larimar.defaults import default_fact_id
from larimar.edit_events import (
    EDIT_TYPES,
    MAX_EVENT_BYTES,
    EditEvent,
    from_json,
    parse_edit,
)
from larimar.errors import Conflict, FailedPrecondition, InvalidArgument, NotFound, Unavailable
from larimar.v1 import larimar_pb2 as pb
from larimar.v1 import larimar_pb2_grpc
from services.gateway import asyncapi
from services.gateway.consumer import InboxConsumer
from services.inbox import MemoryInbox
from tests.events import event_json, eventually
from tests.gateway_calls import ask, digest, facts
from tests.in_process import Door, Pipeline, served

ENVELOPE = {
    "specversion": "1.0",
    "id": "e1",
    "source": "/tests",
    "type": "io.larimar.edit.write.v1",
    "data": {"prompt": "The capital of Velmora is", "answer": "Tarsin"},
}


def changed(**fields) -> bytes:
    """The envelope with some fields replaced; None leaves one out."""
    made = {**ENVELOPE, **fields}
    return json.dumps({name: value for name, value in made.items() if value is not ...}).encode()


def parsed(raw: bytes) -> EditEvent:
    return parse_edit(from_json(raw))


def test_an_envelope_becomes_an_edit() -> None:
    found = parsed(
        changed(
            subject="b-1",
            time="2026-01-31T12:00:00.123+02:00",
            datacontenttype="application/json; charset=utf-8",
            traceparent="00-1-2-01",
            dataschema="https://example.com/schema",
            data={
                "prompt": "p", "answer": "a", "fact_id": "f", "rephrasings": ["r", "s"],
            },
        )
    )  # fmt: skip
    assert found == EditEvent("write", "e1", "b-1", "f", "p", "a", ("r", "s"))
    assert parsed(changed()).bank == "default"


def test_data_may_come_in_base64() -> None:
    data = base64.b64encode(json.dumps(ENVELOPE["data"]).encode()).decode()
    assert parsed(changed(data=..., data_base64=data)) == parsed(changed())


BAD = {
    "not JSON": b"{",
    "a list": b"[1]",
    "not UTF-8": b'{"id": "\xff"}',
    "half a surrogate pair": b'{"id": "\\ud800"}',
    "not JSON: NaN": b'{"id": NaN}',
    "a name twice": b'{"id": "a", "id": "b"}',
    "nested too deep": b"[" * 50_000,
    "too long": changed(data={"prompt": "p", "answer": "a" * MAX_EVENT_BYTES}),
    "no id": changed(id=...),
    "an empty id": changed(id=""),
    "a number as id": changed(id=7),
    "no source": changed(source=...),
    "a source with blanks": changed(source="a b"),
    "no specversion": changed(specversion=...),
    "another specversion": changed(specversion="0.3"),
    "no type": changed(type=...),
    "another type": changed(type="io.larimar.edit.write.v2"),
    "a time without zone": changed(time="2026-01-31T12:00:00"),
    "a time that is none": changed(time="2026-13-31T12:00:00Z"),
    "another content type": changed(datacontenttype="text/plain"),
    "no data": changed(data=...),
    "both kinds of data": changed(data_base64="e30="),
    "data that is no base64": changed(data=..., data_base64="***"),
    "data in base64 that is no JSON": changed(data=..., data_base64="AAAA"),
    "data that is a text": changed(data="text"),
    "an extension in capitals": changed(TraceParent="x"),
    "an extension that is an object": changed(trace={}),
    "an attribute that is too long": changed(subject="b" * 2000),
    "no prompt": changed(data={"answer": "a"}),
    "no answer": changed(data={"prompt": "p"}),
    "an empty prompt": changed(data={"prompt": " ", "answer": "a"}),
    "a number as answer": changed(data={"prompt": "p", "answer": 7}),
    "an unknown field": changed(data={"prompt": "p", "answer": "a", "id": "x"}),
    "rephrasings that are a text": changed(data={"prompt": "p", "answer": "a", "rephrasings": "r"}),
    "a prompt in a forget": changed(type="io.larimar.edit.forget.v1"),
    "a forget without a fact": changed(type="io.larimar.edit.forget.v1", data={}),
    "an erase of no fact": changed(type="io.larimar.edit.erase.v1", data={"fact_id": ""}),
    "an answer in a censor": changed(type="io.larimar.edit.censor.v1"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_edit_event_is_refused_and_shows_no_text(name: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parsed(BAD[name])
    assert caught.value.reason == "BAD_EVENT"
    assert "Velmora" not in caught.value.message and "Tarsin" not in caught.value.message


@given(st.binary() | st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.dictionaries(
        st.sampled_from(["id", "source", "specversion", "type", "data", "x", "subject"]), inner
    ),
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_whatever_comes_is_an_edit_or_a_bad_event(raw: bytes) -> None:
    try:
        assert isinstance(parsed(raw), EditEvent)
    except InvalidArgument as error:
        assert error.reason == "BAD_EVENT"


def test_events_of_the_cloudevents_sdk_are_taken() -> None:
    attributes = {
        "id": "sdk-1",
        "source": "/sdk",
        "type": "io.larimar.edit.write.v1",
        "subject": "b",
        "time": datetime.now(UTC).isoformat(),
        "datacontenttype": "application/json",
        "partitionkey": "k",
    }
    for data in ({"prompt": "p", "answer": "ä"}, b'{"prompt": "p", "answer": "\xc3\xa4"}'):
        _, body = to_structured(SdkEvent(attributes, data))
        assert parsed(body) == EditEvent("write", "sdk-1", "b", "", "p", "ä")


# Through the gateway


def publish_request(raw: bytes) -> pb.PublishRequest:
    return pb.PublishRequest(event=from_json(raw))


async def publish_many(gateway, raws: list[bytes]) -> list[pb.PublishManyResponse]:
    async def requests():
        for raw in raws:
            yield pb.PublishManyRequest(event=from_json(raw))

    return [response async for response in gateway.PublishMany(requests())]


async def test_each_type_does_what_it_says(gateway, bank) -> None:
    prompt = "The capital of Velmora is"
    written = await gateway.Publish(
        publish_request(event_json("1", bank=bank, prompt=prompt, answer="Tarsin"))
    )
    assert (written.id, written.bank, written.version) == ("1", bank, 1)
    assert written.fact_id == default_fact_id(prompt) and not written.duplicate
    _, last = await ask(gateway, bank, prompt)
    assert last.provenance.fact_id == written.fact_id
    again = await gateway.Publish(
        publish_request(event_json("1", bank=bank, prompt=prompt, answer="Tarsin"))
    )
    assert again.duplicate and again.version == 1
    with pytest.raises(Conflict):
        await gateway.Publish(
            publish_request(event_json("1", bank=bank, prompt=prompt, answer="Quill"))
        )
    forgotten = await gateway.Publish(
        publish_request(event_json("2", kind="forget", bank=bank, fact_id=written.fact_id))
    )
    assert forgotten.version == 2 and (await facts(gateway, bank)).total == 0
    censored = await gateway.Publish(
        publish_request(event_json("3", kind="censor", bank=bank, prompt=prompt))
    )
    assert censored.version == 3
    (held,) = (await facts(gateway, bank)).facts
    assert (held.prompt, held.answer) == (prompt, "unknown")
    by_id = {"prompt": "The code of X is", "fact_id": "x"}
    await gateway.Publish(publish_request(event_json("x1", bank=bank, **by_id)))
    published = await gateway.Publish(
        publish_request(event_json("x2", kind="censor", bank=bank, **by_id))
    )
    assert (published.fact_id, published.version) == ("x", 5)
    nameless = event_json("x3", kind="censor", bank=bank, prompt=by_id["prompt"])
    with pytest.raises(FailedPrecondition) as refused:
        await gateway.Publish(publish_request(nameless))
    assert refused.value.reason == "FACT_HAS_ID"
    one, two = await publish_many(
        gateway, [nameless, event_json("x4", kind="forget", bank=bank, fact_id="x")]
    )
    assert (one.status.reason, two.status.code, two.result.version) == ("FACT_HAS_ID", 0, 6)
    assert (await gateway.Publish(publish_request(nameless))).version == 7
    assert {fact.answer for fact in (await facts(gateway, bank)).facts} == {"unknown"}
    with pytest.raises(NotFound):
        await gateway.Publish(
            publish_request(event_json("4", kind="forget", bank=bank, fact_id="none"))
        )
    with pytest.raises(NotFound) as caught:
        await gateway.Publish(publish_request(event_json("5", bank="no-such-bank", prompt="p")))
    assert caught.value.reason == "UNKNOWN_BANK"


async def test_an_event_past_a_limit_is_a_bad_event(gateway, bank) -> None:
    for more in (
        {"prompt": "x" * 20_000},
        {"prompt": "p", "rephrasings": ["r"] * 17},
        {"prompt": "p", "fact_id": "f" * 257},
    ):
        with pytest.raises(InvalidArgument) as caught:
            await gateway.Publish(publish_request(event_json("1", bank=bank, **more)))
        assert caught.value.reason == "BAD_EVENT" and "limit" in caught.value.message


async def test_an_erase_event_erases(gateway, bank) -> None:
    await gateway.Publish(publish_request(event_json("1", bank=bank, prompt="p", fact_id="f")))
    erased = await gateway.Publish(
        publish_request(event_json("2", kind="erase", bank=bank, fact_id="f"))
    )
    assert erased.version == 2 and erased.fact_id == "f"
    with pytest.raises(FailedPrecondition) as caught:
        await gateway.Publish(publish_request(event_json("3", bank=bank, prompt="p", fact_id="f")))
    assert caught.value.reason == "ERASED"


async def test_a_stream_answers_each_event_in_order_and_keeps_the_order_of_a_bank(
    gateway, bank
) -> None:
    raws = []
    for number in range(30):
        box = {"prompt": f"box {number % 3} holds", "fact_id": f"f{number % 3}"}
        raws.append(event_json(f"w{number}", bank=bank, answer=f"the number {number}", **box))
        if number % 10 == 9:
            raws.append(event_json(f"d{number}", kind="forget", bank=bank, fact_id="f0"))
            raws.append(event_json(f"x{number}", bank="no-such-bank", prompt="p"))
            raws.append(event_json(f"y{number}", bank=bank, prompt="p", unknown=1))
    responses = await publish_many(gateway, raws)
    assert [one.result.id for one in responses] == [json.loads(raw)["id"] for raw in raws]
    good = [one for one in responses if not one.status.code]
    assert [one.result.version for one in good] == list(range(1, 34))
    reasons = {one.result.id[0]: one.status.reason for one in responses if one.status.code}
    assert reasons == {"x": "UNKNOWN_BANK", "y": "BAD_EVENT"}
    live = {one.fact_id: one.answer for one in (await facts(gateway, bank)).facts}
    assert live == {"f1": "the number 28", "f2": "the number 29"}
    before = (await digest(gateway, bank)).digest
    repeated = await publish_many(gateway, raws)
    assert all(one.result.duplicate for one in repeated if not one.status.code)
    assert (await digest(gateway, bank)).digest == before


async def test_after_a_transient_error_no_event_of_the_bank_overtakes(pipeline, bank) -> None:
    calls = 0

    async def append(request, call):
        nonlocal calls
        if request.bank == bank:
            calls += 1
            if calls == 2:
                raise Unavailable("the log is busy", "BUSY")
        return await call(request)

    gateway = pipeline.gateway(memory=Door(pipeline.doors["memory"], Append=append))
    other = f"{bank}-other"
    await gateway.CreateBank(pb.CreateBankRequest(bank=other))

    answered, responses = asyncio.Event(), []

    async def requests():
        for number in range(6):
            for name in (bank, other):
                raw = event_json(f"e{number}", bank=name, prompt=f"p{number}")
                yield pb.PublishManyRequest(event=from_json(raw))
            await answered.wait()  # each pair is a batch, or two, of its own
            answered.clear()

    async for one in gateway.PublishMany(requests()):
        responses.append(one)
        if len(responses) % 2 == 0:
            answered.set()
    by_bank = {name: [one.status.reason for one in responses[place::2]]
               for place, name in enumerate((bank, other))}  # fmt: skip
    assert by_bank[other] == [""] * 6
    written = by_bank[bank].index("BUSY")
    assert by_bank[bank] == [""] * written + ["BUSY"] * (6 - written) and written
    assert (await digest(gateway, bank)).version == written


async def test_the_inbox_ends_where_publishing_ends(pipeline: Pipeline) -> None:
    """The same events through PublishMany and through the inbox: the same bank, byte for byte."""
    gateway = pipeline.gateway()
    raws = {}
    for name in ("by-stream", "by-inbox"):
        await gateway.CreateBank(pb.CreateBankRequest(bank=name))
        raws[name] = [
            event_json(f"w{n}", bank=name, prompt=f"box {n % 4} holds", fact_id=f"f{n % 4}")
            for n in range(12)
        ] + [event_json("d", kind="forget", bank=name, fact_id="f2")]
    await publish_many(gateway, raws["by-stream"])
    inbox = MemoryInbox()
    for raw in raws["by-inbox"]:
        await inbox.append("default", raw)
    consumer = asyncio.create_task(InboxConsumer(gateway._servicer, inbox, "default").run())
    try:

        async def done() -> bool:
            return await inbox.length("default") == 0

        await eventually(done)
    finally:
        consumer.cancel()
        await asyncio.gather(consumer, return_exceptions=True)
    one, two = [await digest(gateway, name) for name in raws]
    assert (one.version, one.digest) == (two.version, two.digest)


async def test_no_dead_letter_keeps_the_text_of_an_erased_fact(pipeline: Pipeline) -> None:
    """Of a bank of its family, with an event of the fact or without, and whatever the reason."""
    gateway = pipeline.gateway()
    await gateway.CreateBank(pb.CreateBankRequest(bank="first"))
    await gateway.ForkBank(pb.ForkBankRequest(bank="first", new_bank="second"))
    write = pb.WriteRequest(bank="first", prompt="the secret is", answer="out", fact_id="gone")
    await gateway.Write(write)
    await gateway.Erase(pb.EraseRequest(bank="first", fact_ids=["gone"], event_id="x"))
    inbox = MemoryInbox()
    for bank in ("first", "second"):
        for fact_id in ("gone", "other"):
            event = event_json(fact_id, bank=bank, prompt="the secret", fact_id=fact_id, extra=1)
            await inbox.append("default", event)
    consumer = asyncio.create_task(InboxConsumer(gateway._servicer, inbox, "default").run())
    try:

        async def done() -> bool:
            return await inbox.length("default") == 0

        await eventually(done)
    finally:
        consumer.cancel()
        await asyncio.gather(consumer, return_exceptions=True)
    letters, _ = await inbox.letters("default", "", 9)
    assert [bool(one.event) for one in letters] == [False, True, False, True]
    assert {one.reason for one in letters} == {"BAD_EVENT"}


async def test_dead_letters_are_listed_requeued_and_dropped(pipeline) -> None:
    gateway = pipeline.gateway()
    with pytest.raises(FailedPrecondition, match="no inbox"):
        await gateway.ListDeadLetters(pb.ListDeadLettersRequest())
    inbox = gateway._servicer.inbox = MemoryInbox()
    raws = [event_json(f"e{n}", bank="not-there-yet", prompt=f"p{n}") for n in range(3)]
    for raw in raws:
        await inbox.append("default", raw)
    consumer = asyncio.create_task(InboxConsumer(gateway._servicer, inbox, "default").run())
    try:

        async def letters() -> list:
            return list((await gateway.ListDeadLetters(pb.ListDeadLettersRequest())).letters)

        async def three() -> bool:
            return len(await letters()) == 3

        await eventually(three)
        found = await letters()
        assert [one.event for one in found] == raws
        assert {(one.reason, one.tries) for one in found} == {("UNKNOWN_BANK", 1)}
        page = await gateway.ListDeadLetters(pb.ListDeadLettersRequest(page_size=2))
        assert page.total == 3 and page.next_after == found[1].letter_id
        dropped = await gateway.DropDeadLetters(
            pb.DropDeadLettersRequest(letter_ids=[found[0].letter_id, "9999-9"])
        )
        assert dropped.dropped == 1
        await gateway.CreateBank(pb.CreateBankRequest(bank="not-there-yet"))
        moved = await gateway.RequeueDeadLetters(
            pb.RequeueDeadLettersRequest(letter_ids=[one.letter_id for one in found])
        )
        assert moved.requeued == 2

        async def written() -> bool:
            return (await digest(gateway, "not-there-yet")).version == 2

        await eventually(written)
        assert await letters() == []
    finally:
        consumer.cancel()
        await asyncio.gather(consumer, return_exceptions=True)


class Breaking(larimar_pb2_grpc.LarimarServicer):
    """Takes events, and breaks its first streams after two: by a status, then by an item's."""

    def __init__(self) -> None:
        self.streams = 0
        self.taken: list[str] = []

    async def PublishMany(self, request_iterator, grpc_context):
        self.streams += 1
        count = 0
        async for request in request_iterator:
            count += 1
            if count == 3 and self.streams == 1:
                raise Unavailable("the gateway goes", "SERVICE_DOWN")
            if count == 3 and self.streams == 2:
                yield pb.PublishManyResponse(status={"code": 14, "reason": "STORE_DOWN"})
                continue
            self.taken.append(request.event.id)
            yield pb.PublishManyResponse(result={"id": request.event.id, "bank": "default"})


async def test_a_client_goes_on_where_its_stream_broke() -> None:
    raws = [event_json(f"e{n}", prompt=f"p{n}") for n in range(8)]
    servicer = Breaking()
    async with served("gateway", servicer) as target, AsyncClient(target) as client:
        results = [one.id async for one in client.publish_many(raws)]

        def blocking() -> list[str]:
            with Client(target) as other:
                return [one.id for one in other.publish_many(raws)]

        assert results == [f"e{n}" for n in range(8)] and servicer.streams == 3
        servicer.streams = 0
        assert await asyncio.to_thread(blocking) == results and servicer.streams == 3
    assert set(servicer.taken) == set(results)


# The document


def test_the_document_is_fresh() -> None:
    assert asyncapi.FILE.read_text(encoding="utf-8") == asyncapi.text(), "run `larimar asyncapi`"


def test_references_of_the_document_lead_somewhere() -> None:
    document = yaml.safe_load(asyncapi.text())
    references = []

    def walk(node) -> None:
        if isinstance(node, dict):
            if "$ref" in node:
                references.append(node["$ref"])
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(document)
    assert len(references) > 20
    for reference in references:
        found = document
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
    assert document["asyncapi"] == "3.0.0"


def messages() -> dict:
    return yaml.safe_load(asyncapi.text())["components"]["messages"]


@pytest.mark.parametrize("type_name", EDIT_TYPES)
def test_examples_are_taken_by_schema_and_parser_alike(type_name: str) -> None:
    message = messages()[EDIT_TYPES[type_name].kind]
    validator = jsonschema.Draft202012Validator(message["payload"])
    validator.check_schema(message["payload"])
    for one in message["examples"]:
        payload = one["payload"]
        validator.validate(payload)
        assert parsed(json.dumps(payload).encode()).kind == EDIT_TYPES[type_name].kind
        for spoil in (
            lambda p: p.pop("id"),
            lambda p: p.update(type="another"),
            lambda p: p.update(specversion="2.0"),
            lambda p: p["data"].update(unknown="x"),
            lambda p: p["data"].popitem() if len(p["data"]) == 1 else p["data"].pop("prompt"),
        ):
            spoiled = copy.deepcopy(payload)
            spoil(spoiled)
            assert not validator.is_valid(spoiled)
            with pytest.raises(InvalidArgument):
                parsed(json.dumps(spoiled).encode())


class Limiting(larimar_pb2_grpc.LarimarServicer):
    """Has no room for one event, so many times."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.came: list[str] = []

    async def PublishMany(self, request_iterator, grpc_context):
        async for request in request_iterator:
            self.came.append(request.event.id)
            if request.event.id == "a7" and self.times:
                self.times -= 1
                yield pb.PublishManyResponse(status={"code": 8, "reason": "RATE_LIMITED"})
            else:
                yield pb.PublishManyResponse(result={"id": request.event.id})


@pytest.mark.parametrize("blocking", [False, True])
@pytest.mark.parametrize("times", [2, 1000])
async def test_events_wait_for_room_in_their_order_and_none_overtakes(blocking, times) -> None:
    raws = [
        event_json(f"{name}{n}", bank=name, prompt=f"p{n}") for n in range(300) for name in "ab"
    ]
    wanted = [json.loads(raw)["id"] for raw in raws]
    servicer = Limiting(times)
    async with served("gateway", servicer) as target, AsyncClient(target) as client:

        def published() -> list[Published | FailedPublish]:
            with Client(target) as other:
                return list(other.publish_many(raws, timeout_s=1.0))

        if blocking:
            results = await asyncio.to_thread(published)
        else:
            results = [one async for one in client.publish_many(raws, timeout_s=1.0)]
    assert [one.id for one in results] == wanted
    failed = [one for one in results if isinstance(one, FailedPublish)]
    place = wanted.index("a7")
    assert [one.id for one in failed] == ([] if times == 2 else wanted[place:])
    assert {(one.error.code, one.error.reason) for one in failed} <= {(8, "RATE_LIMITED")}
    if times == 2:
        assert list(dict.fromkeys(servicer.came)) == wanted
    else:
        assert not set(servicer.came) & set(wanted[GROUP_EVENTS:])


@pytest.mark.parametrize("blocking", [False, True])
async def test_the_events_before_one_that_is_none_are_taken(blocking) -> None:
    raws = [event_json(f"e{n}", prompt=f"p{n}") for n in range(3)]
    servicer, taken = Limiting(0), []
    async with served("gateway", servicer) as target, AsyncClient(target) as client:

        def published() -> None:
            with Client(target) as other:
                taken.extend(other.publish_many([*raws, b"no event", *raws]))

        with pytest.raises(InvalidArgument):
            if blocking:
                await asyncio.to_thread(published)
            else:
                async for one in client.publish_many([*raws, b"no event", *raws]):
                    taken.append(one)
    assert [one.id for one in taken] == servicer.came == ["e0", "e1", "e2"]
