"""Tenants' limits: rates as token buckets, sizes as they are known, the same for every way in."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from larimar.aio import AsyncClient
from larimar.edit_events import EditEvent
from larimar.errors import InvalidArgument, LarimarError, ResourceExhausted
from larimar.security import Security
from larimar.v1 import larimar_pb2 as pb
from services.audit import read
from services.build import build_edge
from services.contracts import add_servicer
from services.gateway.admission import Admission, Bucket
from services.gateway.applying import apply_edits
from services.gateway.auth import KeyInterceptor
from services.gateway.consumer import InboxConsumer
from services.gateway.http.app import build_app
from services.gateway.maps import MapRequest
from services.gateway.tenancy import set_tenant
from services.inbox import MemoryInbox
from services.keys import MemoryKeys, new_key
from services.rpc import start_server
from services.settings import Settings, TenantLimits
from tests.events import event_json, eventually
from tests.gateway_calls import (
    ANSWER,
    FACTS,
    PROMPT,
    ask,
    events,
    facts,
    forget,
    list_banks,
    write,
    write_many,
)
from tests.in_process import Pipeline, new_bank_name

NONE = TenantLimits(edits_per_s=0, asks_per_s=0, reads_per_s=0, imports_per_s=0)


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def limited(clock: Callable[[], float], replicas: int = 1, **limits: float) -> Admission:
    """What holds every tenant to these limits and no others."""
    given = dataclasses.replace(NONE, **limits)  # type: ignore[arg-type]
    return Admission(lambda tenant: given, replicas, clock)


async def refusal(call: Awaitable[Any]) -> ResourceExhausted:
    with pytest.raises(ResourceExhausted) as caught:
        await call
    return caught.value


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    bucket = Bucket(rate_per_s=4.0, burst=8.0, now=0.0)
    assert [bucket.take(1, 0.0) for _ in range(8)] == [0.0] * 8
    assert bucket.take(1, 0.0) == pytest.approx(0.25)
    assert bucket.take(3, 0.0) == pytest.approx(0.75), "what is refused takes nothing"
    assert bucket.take(1, 0.25) == 0.0 and bucket.take(1, 0.25) > 0
    assert [bucket.take(4, 1000.0), bucket.take(4, 1000.0)] == [0.0, 0.0], "no more than the burst"
    assert bucket.take(1, 1000.0) > 0


def test_what_is_larger_than_the_bucket_needs_a_full_one_and_leaves_a_debt() -> None:
    bucket = Bucket(rate_per_s=10.0, burst=5.0, now=0.0)
    assert bucket.take(1, 0.0) == 0.0
    assert bucket.take(25, 0.0) == pytest.approx(0.1)
    assert bucket.take(25, 0.1) == 0.0
    assert bucket.take(1, 0.1) == pytest.approx(2.1), "20 owed, and 1 wanted"
    bucket.owe(10, 0.1)
    assert bucket.take(1, 0.1) == pytest.approx(3.1)


def test_gateways_share_a_rate_and_tenants_do_not() -> None:
    clock = Clock()
    admission = limited(clock, replicas=4, edits_per_s=8, edit_burst=8)
    admission.edits("acme", 2)
    with pytest.raises(ResourceExhausted) as caught:
        admission.edits("acme", 1)
    assert caught.value.reason == "RATE_LIMITED"
    assert caught.value.retry_after_s == pytest.approx(0.5)
    admission.edits("other", 2)
    clock.now += 0.5
    admission.edits("acme", 1)


def test_what_is_0_is_not_limited_and_what_is_negative_is_refused() -> None:
    admission = Admission(lambda tenant: NONE, now=Clock())
    admission.edits("acme", 10**9)
    admission.asks("acme", 10**9)
    admission.reads("acme", 10**9)
    admission.imports("acme", 10**9)
    with pytest.raises(InvalidArgument, match="asks_per_s"):
        TenantLimits(asks_per_s=-1)
    with pytest.raises(InvalidArgument, match="edit_burst"):
        TenantLimits(edit_burst=0)
    with pytest.raises(InvalidArgument, match="import_burst"):
        TenantLimits(import_burst=0)


def test_a_tenants_own_limits_stand_on_those_of_all() -> None:
    settings = Settings.from_json(
        '{"limits": {"asks_per_s": 7, "banks": 3}, "tenant_limits": {"acme": {"banks": 9}}}'
    )
    assert Settings.from_json(settings.to_json()) == settings
    assert settings.limits_of("acme").banks == 9 and settings.limits_of("acme").asks_per_s == 7
    assert settings.limits_of("other").banks == 3
    with pytest.raises(InvalidArgument, match="bank"):
        Settings.from_json('{"tenant_limits": {"acme": {"bank": 9}}}')


@pytest.fixture
def gateway(pipeline: Pipeline) -> Any:
    """A door to a gateway of the test's own, whose limits it may change."""
    return pipeline.gateway()


async def test_each_way_to_edit_costs_what_it_edits(gateway, bank: str) -> None:
    clock = Clock()
    gateway._servicer.admission = limited(clock, edits_per_s=1, edit_burst=20)

    async def spent(call: Awaitable[Any], count: int) -> None:
        """The call takes just so many of what a full bucket holds."""
        clock.now += 1000
        await call
        admission: Admission = gateway._servicer.admission
        with pytest.raises(ResourceExhausted):
            admission.edits("default", 21 - count)
        admission.edits("default", 20 - count)

    await spent(write(gateway, bank, PROMPT, ANSWER, fact_id="one"), 1)
    await spent(forget(gateway, bank, "one"), 1)
    await spent(gateway.Censor(pb.CensorRequest(bank=bank, prompt=PROMPT)), 1)
    items = [pb.EditItem(write=pb.WriteRequest(prompt=p, answer=a)) for p, a in FACTS]
    await spent(gateway.Edit(pb.EditRequest(bank=bank, items=items)), len(FACTS))
    writes = [pb.WriteRequest(bank=bank, prompt=p, answer=a) for p, a in FACTS]
    await spent(write_many(gateway, writes), len(FACTS))
    long = "tarsin " * 400  # more tokens than the encoder takes, so that the batch is halved
    await spent(write_many(gateway, [*writes, pb.WriteRequest(bank=bank, prompt=long, answer="a")]),
                len(FACTS) + 1)  # fmt: skip
    prompts = [PROMPT, long, *(prompt for prompt, _ in FACTS)]
    published = [EditEvent("write", f"e{number}", bank, f"f{number}", prompt, "an answer")
                 for number, prompt in enumerate(prompts)]  # fmt: skip
    service = gateway._servicer
    applied = apply_edits(service, bank, published, lambda: service._context(None))
    await spent(applied, len(published))
    text = "A lighthouse stands at Marn. Its keeper is called Odd Sten. " * 2
    request = pb.IngestRequest(bank=bank, document="d", text=text)
    await spent(gateway.Ingest(request), 4)


async def test_a_refused_edit_changes_nothing_and_a_stream_says_which(gateway, bank: str) -> None:
    gateway._servicer.admission = limited(Clock(), edits_per_s=1, edit_burst=1)
    await write(gateway, bank, PROMPT, ANSWER)
    refused = await refusal(write(gateway, bank, *FACTS[0]))
    assert (refused.reason, refused.retry_after_s) == ("RATE_LIMITED", pytest.approx(1.0))
    results = await write_many(gateway, [pb.WriteRequest(bank=bank, prompt="p", answer="a")])
    assert [one.status.reason for one in results] == ["RATE_LIMITED"]
    assert (await facts(gateway, bank)).version == 1


async def test_questions_have_a_rate_of_their_own(gateway, bank: str) -> None:
    clock = Clock()
    gateway._servicer.admission = limited(clock, asks_per_s=2, ask_burst=2)
    await ask(gateway, bank, PROMPT)
    await gateway.Score(pb.ScoreRequest(bank=bank, prompt=PROMPT, candidates=[" a"]))
    refused = await refusal(ask(gateway, bank, PROMPT))
    assert refused.retry_after_s == pytest.approx(0.5)
    await write(gateway, bank, PROMPT, ANSWER)
    clock.now += 0.5
    await ask(gateway, bank, PROMPT)


async def test_what_is_listed_costs_what_it_gives(gateway, bank: str) -> None:
    items = [pb.EditItem(write=pb.WriteRequest(prompt=p, answer=a)) for p, a in FACTS]
    await gateway.Edit(pb.EditRequest(bank=bank, items=items))
    servicer, clock, count = gateway._servicer, Clock(), len(FACTS)
    servicer.admission = limited(clock, reads_per_s=2, read_burst=count)
    servicer.inbox = MemoryInbox()
    for call in (
        lambda: facts(gateway, bank),
        lambda: events(gateway, bank),
        lambda: gateway.DiffBank(pb.DiffBankRequest(bank=bank, from_version=0)),
        lambda: servicer.map_facts(MapRequest(bank), None),
    ):
        await call()
        for other in (call, lambda: gateway.ListDeadLetters(pb.ListDeadLettersRequest())):
            refused = await refusal(other())
            assert (refused.reason, refused.retry_after_s) == ("RATE_LIMITED", pytest.approx(0.5))
        clock.now += 1000
    await facts(gateway, bank, page_size=count - 1)
    await facts(gateway, bank, fact_id="none")
    await refusal(facts(gateway, bank))


async def test_what_looks_at_a_whole_bank_is_a_read(gateway, bank: str) -> None:
    await write(gateway, bank, *FACTS[0])
    clock = Clock()
    gateway._servicer.admission = limited(clock, reads_per_s=2, read_burst=1)
    for call in (
        lambda: gateway.Digest(pb.DigestRequest(bank=bank)),
        lambda: gateway.Replay(pb.ReplayRequest(bank=bank)),
        lambda: gateway.Checkpoint(pb.CheckpointRequest(bank=bank)),
    ):
        await call()
        assert (await refusal(call())).reason == "RATE_LIMITED"
        clock.now += 1000


async def test_a_search_ends_at_its_tenants_rate_and_the_next_call_goes_on(
    gateway, bank: str, monkeypatch
) -> None:
    monkeypatch.setattr("services.gateway.http.search.LOOK", 2)
    items = [pb.EditItem(write=pb.WriteRequest(prompt=p, answer=a)) for p, a in FACTS]
    await gateway.Edit(pb.EditRequest(bank=bank, items=items))
    clock = Clock()
    gateway._servicer.admission = limited(clock, reads_per_s=0.1, read_burst=2)
    transport = httpx2.ASGITransport(app=build_app(gateway._servicer, None, Settings()))
    found, params = [], {"search": "lighthouse"}
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as http:
        for _ in range(len(FACTS) // 2):
            page = await http.get(f"/v1/banks/{bank}/facts", params=params)
            assert page.status_code == 200, page.text
            found += [fact["prompt"] for fact in page.json()["facts"]]
            params["page_token"] = page.json()["next_after"]
            refused = await http.get(f"/v1/banks/{bank}/facts", params=params)
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "10")
            clock.now += 1000
    assert not params["page_token"] and sorted(found) == sorted(prompt for prompt, _ in FACTS)


async def test_a_stream_is_held_up_at_its_tenants_rate_and_refused_only_at_first(
    gateway, bank: str
) -> None:
    items = [pb.EditItem(write=pb.WriteRequest(prompt=p, answer=a)) for p, a in FACTS]
    await gateway.Edit(pb.EditRequest(bank=bank, items=items))
    exported = [one async for one in gateway.ExportBank(pb.ExportBankRequest(bank=bank))]

    async def export() -> None:
        async for _ in gateway.ExportBank(pb.ExportBankRequest(bank=bank)):
            pass

    async def watch() -> None:
        async with contextlib.aclosing(gateway.Watch(pb.WatchRequest(bank=bank))) as replies:
            await anext(replies)

    async def load() -> None:
        async def requests() -> AsyncIterator[pb.ImportBankRequest]:
            for one in exported:
                one.header.config.bank = f"{bank}-copy"
                yield pb.ImportBankRequest(header=one.header, records=one.records)

        await gateway.ImportBank(requests())

    for kind, call in (("read", export), ("read", watch), ("import", load)):
        limits = {f"{kind}s_per_s": 2, f"{kind}_burst": len(FACTS)}
        gateway._servicer.admission = limited(time.monotonic, **limits)
        began = time.monotonic()
        await call()
        assert time.monotonic() - began > 0.45, "one was taken at first, and is waited for"
        spent = gateway._servicer.admission = limited(Clock(), **limits)
        spent.owe("default", kind, len(FACTS))
        assert (await refusal(call())).reason == "RATE_LIMITED"


async def test_a_map_encodes_and_so_is_a_question(gateway, bank: str) -> None:
    servicer = gateway._servicer
    servicer.admission = limited(Clock(), asks_per_s=1, ask_burst=1)
    await servicer.map_facts(MapRequest(bank), None)
    assert (await refusal(servicer.map_facts(MapRequest(bank), None))).reason == "RATE_LIMITED"


async def test_a_client_is_told_when_to_come_again_and_another_tenant_is_not_held_up(
    gateway,
) -> None:
    keys, clock = MemoryKeys(), Clock()
    servicer = gateway._servicer
    servicer.admission = limited(clock, asks_per_s=0.1, ask_burst=1)
    server, port = await start_server(
        "127.0.0.1:0", add_servicer("gateway", servicer), interceptors=[KeyInterceptor(keys)]
    )
    try:
        for tenant in ("hasty", "patient"):
            key, shown = new_key(tenant, ["read", "edit"], "")
            await keys.add(key)
            async with AsyncClient(
                f"127.0.0.1:{port}", timeout_s=120.0, security=Security(api_key=shown)
            ) as client:
                await client.ask(PROMPT, max_tokens=1)
                with pytest.raises(ResourceExhausted) as caught:
                    await client.ask(PROMPT, max_tokens=1)
                assert caught.value.reason == "RATE_LIMITED"
                assert caught.value.retry_after_s == pytest.approx(10.0)
    finally:
        await server.stop(grace=0)


async def test_http_answers_429_and_when_to_come_again(gateway, bank: str) -> None:
    gateway._servicer.admission = limited(Clock(), edits_per_s=0.1, edit_burst=1)
    app = build_app(gateway._servicer, None, Settings())
    transport, body = httpx2.ASGITransport(app=app), {"prompt": PROMPT, "answer": ANSWER}
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as http:
        assert (await http.post(f"/v1/banks/{bank}/facts", json=body)).status_code < 300
        refused = await http.post(f"/v1/banks/{bank}/facts", json=body)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "10")
    assert refused.json()["error"]["code"] == "RATE_LIMITED"


async def test_a_pipelines_gateway_is_built_with_its_limits_and_its_audit_log(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    settings = Settings(
        data_dir=str(tmp_path),
        redis_url=f"unix://{tmp_path}/none",
        limits=TenantLimits(edits_per_s=2, edit_burst=2),
        tenant_limits={"acme": TenantLimits(edits_per_s=0)},
    )
    gateway = build_edge(settings, pipeline.doors, replicas=2)._gateway
    gateway.admission.edits("acme", 1000)
    gateway.admission.edits("other", 1)
    with pytest.raises(ResourceExhausted):
        gateway.admission.edits("other", 1)
    gateway.auditor.trail.add("acme", "k", [{"action": "write"}])
    assert [entry["key"] for entry in read(tmp_path / "audit")] == ["k"]
    without = build_edge(dataclasses.replace(settings, audit_mb=0), pipeline.doors)._gateway
    without.auditor.trail.add("acme", "k", [{"action": "write"}])
    assert len(list(read(tmp_path / "audit"))) == 1


async def known(admission: Admission) -> None:
    """Waits until every look that was begun has answered."""
    looks = [count.look for count in admission._counts.values() if count.look is not None]
    await asyncio.gather(*looks)


async def test_a_full_bank_takes_no_new_fact_but_a_new_answer(gateway, bank: str) -> None:
    admission = gateway._servicer.admission = limited(Clock(), bank_facts=2)
    await write(gateway, bank, *FACTS[0], fact_id="a")
    await known(admission)
    await write(gateway, bank, *FACTS[1], fact_id="b")
    refused = await refusal(write(gateway, bank, *FACTS[2], fact_id="c"))
    assert refused.reason == "BANK_QUOTA" and refused.retry_after_s
    await write(gateway, bank, *FACTS[3], fact_id="b")
    await forget(gateway, bank, "a")
    assert (await facts(gateway, bank)).total == 1


async def test_room_that_was_made_is_seen_at_the_next_look(gateway, bank: str) -> None:
    clock = Clock()
    admission = gateway._servicer.admission = limited(clock, bank_facts=1)
    await write(gateway, bank, *FACTS[0], fact_id="a")
    await known(admission)
    await refusal(write(gateway, bank, *FACTS[1], fact_id="b"))
    await forget(gateway, bank, "a")
    clock.now += 0.5
    await refusal(write(gateway, bank, *FACTS[1], fact_id="b"))
    clock.now += 1
    await write(gateway, bank, *FACTS[1], fact_id="b")


async def test_facts_that_are_written_again_use_no_room_up(gateway) -> None:
    set_tenant(f"t-{new_bank_name()}")
    try:
        clock = Clock()
        limits = {"bank_facts": 6, "tenant_facts": 6}
        admission = gateway._servicer.admission = limited(clock, **limits)
        await gateway.CreateBank(pb.CreateBankRequest(bank="one"))
        for fact_id in "abc":
            await write(gateway, "one", *FACTS[0], fact_id=fact_id)
        await known(admission)
        for _ in range(3):
            for fact_id in "abc":
                await write(gateway, "one", *FACTS[1], fact_id=fact_id)
        clock.now += 2  # less than the time between two looks
        for fact_id in "def":
            await write(gateway, "one", *FACTS[2], fact_id=fact_id)
        clock.now += 2
        refused = await refusal(write(gateway, "one", *FACTS[3], fact_id="g"))
        assert refused.reason == "BANK_QUOTA"
        assert (await facts(gateway, "one")).total == 6
    finally:
        set_tenant("")


async def test_a_tenant_has_a_limit_over_all_its_banks(gateway) -> None:
    set_tenant(f"t-{new_bank_name()}")
    try:
        admission = gateway._servicer.admission = limited(Clock(), tenant_facts=2, banks=2)
        for bank, (prompt, answer) in zip(("one", "two"), FACTS, strict=False):
            await gateway.CreateBank(pb.CreateBankRequest(bank=bank))
            await write(gateway, bank, prompt, answer)
            await known(admission)
        assert (await refusal(write(gateway, "one", *FACTS[4]))).reason == "TENANT_QUOTA"
        again = await gateway.CreateBank(pb.CreateBankRequest(bank="two"))
        assert not again.created
        for call in (
            gateway.CreateBank(pb.CreateBankRequest(bank="three")),
            gateway.ForkBank(pb.ForkBankRequest(bank="one", new_bank="three")),
            ask(gateway, "default", PROMPT),
        ):
            assert (await refusal(call)).reason == "TOO_MANY_BANKS"
        assert {one.config.bank for one in await list_banks(gateway)} == {"one", "two"}
    finally:
        set_tenant("")


async def test_banks_that_are_made_together_pass_no_limit(gateway) -> None:
    set_tenant(f"t-{new_bank_name()}")
    try:
        gateway._servicer.admission = limited(Clock(), banks=2)
        calls = [gateway.CreateBank(pb.CreateBankRequest(bank=f"b{n // 2}")) for n in range(20)]
        made = await asyncio.gather(*calls, return_exceptions=True)
        refused = [one for one in made if isinstance(one, ResourceExhausted)]
        assert {one.reason for one in refused} == {"TOO_MANY_BANKS"} and len(refused) == 16
        assert {one.config.bank for one in await list_banks(gateway)} == {"b0", "b1"}
    finally:
        set_tenant("")


async def test_a_bank_that_is_filled_at_once_holds_to_the_limits_of_facts(gateway) -> None:
    set_tenant(f"t-{new_bank_name()}")
    try:
        await gateway.CreateBank(pb.CreateBankRequest(bank="old"))
        await gateway.ForkBank(pb.ForkBankRequest(bank="old", new_bank="empty"))
        for number in range(4):
            await write(gateway, "old", *FACTS[number], fact_id=f"f{number}")
        await forget(gateway, "old", "f3")
        archive = [one async for one in gateway.ExportBank(pb.ExportBankRequest(bank="old"))]

        async def load() -> pb.ImportBankResponse:
            async def requests() -> AsyncIterator[pb.ImportBankRequest]:
                for one in archive:
                    request = pb.ImportBankRequest(records=one.records)
                    if one.HasField("header"):
                        request.header.CopyFrom(one.header)
                        request.header.config.bank = "imported"
                    yield request

            return await gateway.ImportBank(requests())

        async def reencode() -> None:
            request = pb.ReencodeBankRequest(bank="old", new_bank="again")
            async for _ in gateway.ReencodeBank(request):
                pass

        def fork(name: str = "fork") -> Awaitable[Any]:
            return gateway.ForkBank(pb.ForkBankRequest(bank="old", new_bank=name))

        def merge() -> Awaitable[Any]:
            return gateway.MergeBank(pb.MergeBankRequest(source="old", target="empty"))

        for limits, reason in (
            ({"bank_facts": 2}, "BANK_QUOTA"),
            ({"tenant_facts": 5}, "TENANT_QUOTA"),
        ):
            gateway._servicer.admission = limited(Clock(), **limits)
            for call in (load, reencode, fork, merge):
                assert (await refusal(call())).reason == reason, call.__name__
        assert {one.config.bank for one in await list_banks(gateway)} == {"old", "empty"}
        gateway._servicer.admission = limited(Clock(), bank_facts=3, tenant_facts=6)
        tried = await asyncio.gather(fork("one"), fork("two"), return_exceptions=True)
        assert [getattr(one, "reason", "") for one in tried] == ["", "TENANT_QUOTA"]
        for tenant_facts, call in ((9, load), (12, reencode), (15, merge)):
            limits = {"bank_facts": 3, "tenant_facts": tenant_facts}
            gateway._servicer.admission = limited(Clock(), **limits)
            await call()
        assert (await facts(gateway, "empty")).total == 3
        await merge()  # which finds nothing to do
    finally:
        set_tenant("")


async def test_the_inbox_waits_for_its_tenants_rate_and_loses_nothing(gateway, bank: str) -> None:
    servicer, inbox = gateway._servicer, MemoryInbox()
    for number in range(6):
        await inbox.append(
            "default",
            event_json(str(number), bank=bank, prompt=f"The {number}th is", answer="a"),
        )
    servicer.admission = Admission(
        lambda tenant: TenantLimits(edits_per_s=20, edit_burst=1, asks_per_s=0)
    )
    consumer = asyncio.create_task(InboxConsumer(servicer, inbox, "default", max_tries=1).run())
    try:

        async def empty() -> bool:
            return not await inbox.length("default")

        await eventually(empty)
    finally:
        consumer.cancel()
        await asyncio.gather(consumer, return_exceptions=True)
    assert (await inbox.letters("default", "", 10))[1] == 0
    assert (await facts(gateway, bank)).total == 6


async def test_a_look_that_fails_holds_nobody_up(gateway, bank: str, monkeypatch) -> None:
    servicer = gateway._servicer
    admission = servicer.admission = limited(Clock(), bank_facts=1)

    async def fails(*_: Any) -> Any:
        raise LarimarError("no answer")

    monkeypatch.setattr(servicer, "_describe_bank", fails)
    for number in range(3):
        await write(gateway, bank, f"Number {number} is", "a")
        await known(admission)
