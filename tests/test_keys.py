"""API keys: what is kept, who may call what, and that a tenant sees nothing of another."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace

import grpc
import pytest
import redis

from larimar.aio import AsyncClient
from larimar.edit_events import from_json
from larimar.errors import (
    InvalidArgument,
    LarimarError,
    NotFound,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)
from larimar.security import Security
from larimar.v1 import larimar_pb2, larimar_pb2_grpc
from services.audit import OPERATOR
from services.contracts import add_servicer
from services.gateway import auth
from services.gateway.auth import METHOD_SCOPES, KeyInterceptor
from services.gateway.tenancy import current_tenant, set_tenant
from services.keys import SCOPES, ApiKey, Keys, MemoryKeys, new_key, split_key
from services.redis_keys import RedisKeys
from services.rpc import start_server
from services.store import EmbeddedStore
from tests.command_line import command
from tests.events import event_json
from tests.in_process import Door


@pytest.fixture(scope="module")
def store() -> Iterator[EmbeddedStore]:
    folder = tempfile.mkdtemp(prefix="test-keys-")
    with EmbeddedStore(folder) as running:
        yield running
    shutil.rmtree(folder)


@pytest.fixture(params=["memory", "redis"])
async def keys(request, store: EmbeddedStore) -> AsyncIterator[Keys]:
    with redis.Redis.from_url(store.url) as client:
        client.flushall()
    made: Keys = MemoryKeys() if request.param == "memory" else RedisKeys(store.url)
    yield made
    await made.close()


async def test_a_key_is_kept_listed_and_revoked_once(keys: Keys) -> None:
    one, shown = new_key("acme", ["edit", "read", "read"], "billing")
    two, _ = new_key("other", ["admin"], "")
    await keys.add(one)
    await keys.add(two)
    assert await keys.find(one.key_id) == one and one.scopes == ("read", "edit")
    assert {key.key_id for key in await keys.all()} == {one.key_id, two.key_id}
    assert one.opens(split_key(shown)[1]) and not two.opens(split_key(shown)[1])
    ended = await keys.revoke(one.key_id)
    assert ended.revoked_ms and not ended.opens(split_key(shown)[1])
    assert await keys.revoke(one.key_id) == ended == await keys.find(one.key_id)
    assert await keys.find("0" * 16) is None
    with pytest.raises(NotFound):
        await keys.revoke("0" * 16)


async def test_the_store_holds_no_secret(store: EmbeddedStore) -> None:
    keys = RedisKeys(store.url)
    key, shown = new_key("acme", ["read"], "")
    await keys.add(key)
    await keys.close()
    secret = split_key(shown)[1]
    assert len(bytes.fromhex(secret)) == 32
    with redis.Redis.from_url(store.url) as client:
        record = client.hget("larimar:keys", key.key_id).decode()
    assert secret not in record
    assert json.loads(record)["sha256"] == hashlib.sha256(secret.encode()).hexdigest()


@pytest.mark.parametrize(
    ("tenant", "scopes", "name"),
    [("a}b", ["read"], ""), ("a", [], ""), ("a", ["root"], ""), ("a", ["read"], "x" * 200)],
)
def test_a_key_of_no_tenant_or_scope_is_not_made(tenant, scopes, name) -> None:
    with pytest.raises(InvalidArgument):
        new_key(tenant, scopes, name)


def test_every_method_has_a_scope() -> None:
    (service,) = larimar_pb2.DESCRIPTOR.services_by_name.values()
    assert set(METHOD_SCOPES) == {method.name for method in service.methods}
    assert set(METHOD_SCOPES.values()) <= set(SCOPES)
    changing = {"Write", "WriteMany", "Forget", "Edit", "Censor", "Erase", "Publish", "PublishMany"}
    assert all(METHOD_SCOPES[name] != "read" for name in changing)


class Tenants(larimar_pb2_grpc.LarimarServicer):
    """Says whose call it was, in calls of every shape that the contract has."""

    async def Write(self, request, grpc_context):
        return larimar_pb2.WriteResponse(bank=current_tenant("nobody"))

    async def ListBanks(self, request, grpc_context):
        await asyncio.sleep(0.05)
        return larimar_pb2.ListBanksResponse(banks=[{"config": {"bank": current_tenant("nobody")}}])

    async def Ask(self, request, grpc_context):
        for _ in range(3):
            await asyncio.sleep(0.01)
            yield larimar_pb2.AskResponse(text=current_tenant("nobody"))

    async def WriteMany(self, request_iterator, grpc_context):
        async for _ in request_iterator:
            yield larimar_pb2.WriteManyResponse(result={"bank": current_tenant("nobody")})


class Guarded:
    """A server that asks for keys."""

    def __init__(self, target: str, keys: MemoryKeys) -> None:
        self.target = target
        self.keys = keys

    async def key(self, tenant: str, *scopes: str) -> str:
        key, shown = new_key(tenant, scopes or SCOPES, "")
        await self.keys.add(key)
        return shown

    @contextlib.asynccontextmanager
    async def stub(self, shown: str | None, header: str = "authorization"):
        value = f"Bearer {shown}" if header == "authorization" else shown
        metadata = ((header, value),) if shown else ()
        async with grpc.aio.insecure_channel(self.target) as channel:
            stub = larimar_pb2_grpc.LarimarStub(channel)
            yield SimpleNamespace(
                Write=lambda: stub.Write(larimar_pb2.WriteRequest(), metadata=metadata),
                ListBanks=lambda: stub.ListBanks(larimar_pb2.ListBanksRequest(), metadata=metadata),
                Ask=lambda: stub.Ask(larimar_pb2.AskRequest(), metadata=metadata),
                WriteMany=lambda: stub.WriteMany(
                    iter([larimar_pb2.WriteManyRequest()] * 2), metadata=metadata
                ),
                DeleteBank=lambda: stub.DeleteBank(
                    larimar_pb2.DeleteBankRequest(), metadata=metadata
                ),
            )


@pytest.fixture
async def guarded() -> AsyncIterator[Guarded]:
    keys = MemoryKeys()
    server, port = await start_server(
        "127.0.0.1:0", add_servicer("gateway", Tenants()), interceptors=[KeyInterceptor(keys)]
    )
    yield Guarded(f"127.0.0.1:{port}", keys)
    await server.stop(grace=0)


async def refused(call) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call
    return caught.value.code(), dict(caught.value.trailing_metadata()).get("larimar-reason", "")


LOST_STATUSES = 10
"""Calls after which a status must have come: grpc.aio loses that of a stream that ends while the
client writes (grpc issue 36066), and says INTERNAL."""


@pytest.mark.parametrize("method", ["Write", "Ask", "WriteMany", "DeleteBank"])
async def test_a_call_without_a_good_key_is_refused_whatever_its_shape(guarded, method) -> None:
    good = await guarded.key("acme")
    wrong = [None, "nonsense", f"{good[:-1]}{'0' if good[-1] != '0' else '1'}", good.upper()]
    wrong.append(f"lk_{'0' * 16}_{'0' * 64}")
    for shown in wrong:
        async with guarded.stub(shown) as stub:
            code, reason = await refused(getattr(stub, method)())
            for _ in range(LOST_STATUSES):
                if code != grpc.StatusCode.INTERNAL:
                    break
                code, reason = await refused(getattr(stub, method)())
        assert code == grpc.StatusCode.UNAUTHENTICATED
        assert reason == ("BAD_KEY" if shown else "NO_KEY")


async def test_a_key_opens_what_its_scopes_say(guarded) -> None:
    needs = {"Write": "edit", "ListBanks": "read", "DeleteBank": "admin"}
    for scope in SCOPES:
        async with guarded.stub(await guarded.key("acme", scope)) as stub:
            for method, needed in needs.items():
                if needed != scope:
                    code, reason = await refused(getattr(stub, method)())
                    assert (code, reason) == (grpc.StatusCode.PERMISSION_DENIED, "MISSING_SCOPE")
                elif method != "DeleteBank":
                    await getattr(stub, method)()


@pytest.mark.parametrize("header", ["authorization", "x-api-key"])
async def test_a_call_is_its_keys_tenants_in_every_shape(guarded, header) -> None:
    async def tenants_of(tenant: str) -> set[str]:
        async with guarded.stub(await guarded.key(tenant), header) as stub:
            seen = {(await stub.Write()).bank}
            seen |= {one.config.bank for one in (await stub.ListBanks()).banks}
            seen |= {reply.text async for reply in stub.Ask()}
            seen |= {reply.result.bank async for reply in stub.WriteMany()}
            return seen

    names = [f"tenant-{number}" for number in range(8)]
    found = await asyncio.gather(*(tenants_of(name) for name in names))
    assert found == [{name} for name in names]


async def test_a_revoked_key_is_refused_once_the_cache_is_over(guarded, monkeypatch) -> None:
    monkeypatch.setattr(auth, "CACHE_S", 600.0)
    shown = await guarded.key("acme")
    async with guarded.stub(shown) as stub:
        await stub.Write()
        await guarded.keys.revoke(split_key(shown)[0])
        await stub.Write()  # for as long as the cache says
        monkeypatch.setattr(auth, "CACHE_S", 0.0)
        assert await refused(stub.Write()) == (grpc.StatusCode.UNAUTHENTICATED, "BAD_KEY")


async def test_a_known_key_opens_for_a_while_when_the_store_is_away(guarded, monkeypatch) -> None:
    shown, unknown = await guarded.key("acme"), await guarded.key("acme")
    async with guarded.stub(shown) as stub:
        await stub.Write()

        async def down(key_id: str) -> ApiKey:
            raise Unavailable("the store does not answer", "STORE_DOWN")

        monkeypatch.setattr(guarded.keys, "find", down)
        monkeypatch.setattr(auth, "CACHE_S", 0.0)
        await stub.Write()
        async with guarded.stub(unknown) as other:
            assert (await refused(other.Write()))[1] == "STORE_DOWN"
        monkeypatch.setattr(auth, "OUTAGE_S", 0.0)
        assert (await refused(stub.Write()))[1] == "STORE_DOWN"


async def test_health_and_reflection_need_no_key(guarded) -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    async with grpc.aio.insecure_channel(guarded.target) as channel:
        reply = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
        requests = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        assert [reply async for reply in stub.ServerReflectionInfo(requests)]


async def test_calls_without_a_key_leave_the_others_theirs_and_end(guarded, monkeypatch) -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    monkeypatch.setattr(auth, "MAX_OPEN_CALLS", 3)
    async with grpc.aio.insecure_channel(guarded.target) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        code, _ = await refused(health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest()))  # fmt: skip
        assert code == grpc.StatusCode.UNIMPLEMENTED
        # Two streams of which the client ends none, and a request that never comes.
        silent = [reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
                  for _ in range(2)]  # fmt: skip
        for stream in silent:
            await stream.write(reflection_pb2.ServerReflectionRequest(list_services=""))
            assert (await stream.read()).list_services_response.service
        unsent = channel.stream_unary("/grpc.health.v1.Health/Check")()
        while (got := await refused_or_none(check(health_pb2.HealthCheckRequest()))) is None:
            await asyncio.sleep(0.01)
        assert got == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_CALLS")
        async with guarded.stub(await guarded.key("acme")) as stub:
            assert (await stub.Write()).bank == "acme"
        for stream in (*silent, unsent):
            stream.cancel()
        while await refused_or_none(check(health_pb2.HealthCheckRequest())) is not None:
            await asyncio.sleep(0.01)

        monkeypatch.setattr(auth, "OPEN_CALL_S", 0.1)
        unsent = channel.stream_unary("/grpc.health.v1.Health/Check")()
        assert (await refused(unsent))[0] == grpc.StatusCode.DEADLINE_EXCEEDED
        stream = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
        assert (await refused(stream))[0] == grpc.StatusCode.DEADLINE_EXCEEDED


async def refused_or_none(call) -> tuple[grpc.StatusCode, str] | None:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code(), dict(error.trailing_metadata()).get("larimar-reason", "")
    return None


async def test_what_is_in_no_table_is_refused(guarded) -> None:
    async with grpc.aio.insecure_channel(guarded.target) as channel:
        metadata = (("authorization", f"Bearer {await guarded.key('acme')}"),)
        for method in ("/larimar.v1.Larimar/NoSuch", "/larimar.v1.Memory/Append"):
            call = channel.unary_unary(method)(b"", metadata=metadata)
            assert await refused(call) == (grpc.StatusCode.PERMISSION_DENIED, "UNKNOWN_METHOD")


async def test_the_client_sends_its_key_and_raises_by_class(guarded) -> None:
    async with AsyncClient(
        guarded.target, security=Security(api_key=await guarded.key("acme", "read"))
    ) as client:
        assert [one.bank for one in await client.list_banks()] == ["acme"]
        with pytest.raises(PermissionDenied, match="scope edit"):
            await client.write("p", "a")
    async with AsyncClient(guarded.target) as client:
        with pytest.raises(Unauthenticated, match="API key"):
            await client.list_banks()
    with pytest.raises(InvalidArgument):
        Security(api_key="not a key\n")


# Tenants behind the whole gateway


@contextlib.asynccontextmanager
async def guarded_gateway(pipeline, keys: MemoryKeys, **doors) -> AsyncIterator[Guarded]:
    gateway = pipeline.gateway(**doors)._servicer
    server, port = await start_server(
        "127.0.0.1:0", add_servicer("gateway", gateway), interceptors=[KeyInterceptor(keys)]
    )
    yield Guarded(f"127.0.0.1:{port}", keys)
    await server.stop(grace=0)


@pytest.fixture
async def tenants(pipeline) -> AsyncIterator[Guarded]:
    async with guarded_gateway(pipeline, MemoryKeys()) as running:
        yield running


def fact_of(method: str, number: int):
    """A fact to write, as a message of one of the streams that write."""
    if method == "PublishMany":
        raw = event_json(f"event-{number}", prompt=f"The number of box {number} is")
        return larimar_pb2.PublishManyRequest(event=from_json(raw))
    write = {"prompt": f"The number of box {number} is", "answer": "seven"}
    return larimar_pb2.WriteManyRequest(write=write)


@contextlib.asynccontextmanager
async def called(guarded: Guarded, shown: str):
    """Makes calls with a key: of a method, with a request or None for a stream of them."""
    async with grpc.aio.insecure_channel(guarded.target) as channel:
        stub, metadata = larimar_pb2_grpc.LarimarStub(channel), (("x-api-key", shown),)
        yield lambda method, *request: getattr(stub, method)(*request, metadata=metadata)


async def refused_read(call) -> tuple[grpc.StatusCode, str]:
    """Why a stream has ended, instead of the message that is awaited."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(call.read(), 120)
    return caught.value.code(), dict(caught.value.trailing_metadata()).get("larimar-reason", "")


BAD_KEY = (grpc.StatusCode.UNAUTHENTICATED, "BAD_KEY")


@pytest.mark.parametrize("method", ["WriteMany", "PublishMany"])
async def test_a_revoked_key_writes_no_more_on_an_open_stream(tenants, monkeypatch, method) -> None:
    shown, other = await tenants.key("acme"), await tenants.key("acme")
    async with called(tenants, shown) as call, called(tenants, other) as call_of_other:
        stream = call(method)
        await stream.write(fact_of(method, 1))
        assert (await stream.read()).result.version == 1
        await tenants.keys.revoke(split_key(shown)[0])
        await stream.write(fact_of(method, 2))
        assert (await stream.read()).result.version == 2, "for as long as the cache says"
        monkeypatch.setattr(auth, "CACHE_S", 0.0)
        await stream.write(fact_of(method, 3))
        assert await refused_read(stream) == BAD_KEY
        found = await call_of_other("GetBank", larimar_pb2.GetBankRequest())
        assert found.info.version == 2
        await call_of_other("DeleteBank", larimar_pb2.DeleteBankRequest(bank="default"))


async def test_a_revoked_key_reads_no_more_on_an_open_watch(tenants, monkeypatch) -> None:
    monkeypatch.setattr(auth, "CACHE_S", 0.0)
    shown, other = await tenants.key("watched"), await tenants.key("watched")
    write = larimar_pb2.WriteRequest(prompt="The capital of Velmora is", answer="Tarsin")
    async with called(tenants, shown) as call, called(tenants, other) as call_of_other:
        await call_of_other("Write", write)
        watch = call("Watch", larimar_pb2.WatchRequest())
        assert (await watch.read()).event.version == 1
        await tenants.keys.revoke(split_key(shown)[0])
        await call_of_other("Write", write)
        assert await refused_read(watch) == BAD_KEY


@pytest.mark.parametrize("method", ["ExportBank", "ReencodeBank", "ImportBank"])
async def test_a_long_call_ends_when_its_key_is_revoked(pipeline, monkeypatch, method) -> None:
    """It is revoked when the call's first part is on its way."""
    monkeypatch.setattr(auth, "CACHE_S", 0.0)
    monkeypatch.setattr("services.gateway.banks.MAX_LOAD_BYTES", 1)
    keys, revoked = MemoryKeys(), list[str]()

    async def dumped(request, dump):
        async for reply in dump(request):
            await asyncio.gather(*map(keys.revoke, revoked))
            yield reply

    async def loaded(request, load):
        await asyncio.gather(*map(keys.revoke, revoked))
        return await load(request)

    memory = Door(pipeline.doors["memory"], DumpBank=dumped, LoadBank=loaded)
    async with guarded_gateway(pipeline, keys, memory=memory) as tenants:
        shown, other = [await tenants.key(f"long-{method}") for _ in range(2)]
        async with called(tenants, shown) as call, called(tenants, other) as call_of_other:
            for number in range(2):
                await call_of_other("Write", fact_of("WriteMany", number).write)
            export = larimar_pb2.ExportBankRequest()
            archive = [reply async for reply in call_of_other("ExportBank", export)]
            requests = {
                "ExportBank": export,
                "ReencodeBank": larimar_pb2.ReencodeBankRequest(bank="default", new_bank="new"),
                "ImportBank": iter([imported(part, "new") for part in archive]),
            }
            revoked.append(split_key(shown)[0])
            assert await refused(call(method, requests[method])) == BAD_KEY
            listed = await call_of_other("ListBanks", larimar_pb2.ListBanksRequest())
            assert [one.config.bank for one in listed.banks] == ["default"]


def imported(part: larimar_pb2.ExportBankResponse, bank: str) -> larimar_pb2.ImportBankRequest:
    """A part of an export as one of an import under another name."""
    request = larimar_pb2.ImportBankRequest(records=part.records)
    if part.HasField("header"):
        request.header.CopyFrom(part.header)
        request.header.config.bank = bank
    return request


async def test_an_open_stream_outlives_the_store_as_long_as_a_new_call(
    tenants, monkeypatch
) -> None:
    async def down(key_id: str) -> ApiKey:
        raise Unavailable("the store does not answer", "STORE_DOWN")

    async with called(tenants, await tenants.key("outage")) as call:
        stream = call("WriteMany")
        monkeypatch.setattr(auth, "CACHE_S", 0.0)
        await stream.write(fact_of("WriteMany", 1))
        assert (await stream.read()).result.version == 1
        monkeypatch.setattr(tenants.keys, "find", down)
        await stream.write(fact_of("WriteMany", 2))
        assert (await stream.read()).result.version == 2
        monkeypatch.setattr(auth, "OUTAGE_S", 0.0)
        await stream.write(fact_of("WriteMany", 3))
        assert await refused_read(stream) == (grpc.StatusCode.UNAVAILABLE, "STORE_DOWN")


async def test_a_tenant_neither_sees_nor_changes_anothers_banks(tenants) -> None:
    """Same names on both sides: what one tenant has is as if it were not there for the other."""
    keys = {name: await tenants.key(name) for name in ("alpha", "beta")}
    prompt = "The capital of Velmora is"
    async with contextlib.AsyncExitStack() as stack:
        alpha, beta = [
            await stack.enter_async_context(
                AsyncClient(tenants.target, timeout_s=120.0, security=Security(api_key=key))
            )
            for key in keys.values()
        ]
        await alpha.create_bank("shared")
        await alpha.create_bank("own")
        written = await alpha.write(prompt, "Tarsin", bank="shared", event_id="e", fact_id="f")
        assert await beta.list_banks() == []
        for attempt in (
            lambda: beta.get_bank("shared"),
            lambda: beta.write(prompt, "Quill", bank="shared"),
            lambda: beta.forget("f", bank="shared"),
            lambda: beta.ask(prompt, bank="shared"),
            lambda: beta.digest("own"),
            lambda: beta.delete_bank("own"),
            lambda: beta.replay("own"),
        ):
            with pytest.raises(NotFound) as caught:
                await attempt()
            assert caught.value.reason == "UNKNOWN_BANK"
        await beta.create_bank("shared")
        mine = await beta.write(prompt, "Quill", bank="shared", event_id="e", fact_id="f")
        assert mine.version == 1 and not mine.duplicate
        held = {}
        for name, client in (("alpha", alpha), ("beta", beta)):
            held[name] = [fact.answer async for fact in client.facts("shared")]
        assert held == {"alpha": ["Tarsin"], "beta": ["Quill"]}
        await beta.delete_bank("shared")
        assert (await alpha.digest("shared")).version == written.version
        assert {one.bank for one in await alpha.list_banks()} == {"shared", "own"}


async def test_a_tenant_is_not_told_of_anothers_stopped_banks(pipeline) -> None:
    """What a follower says of itself is of all tenants; the operator alone is told all of it."""

    async def stopped(request, call):
        described = await call(request)
        described.stopped.extend(f"{name}/vault: version 3" for name in ("alpha", "alpha-2"))
        return described

    memory = Door(pipeline.doors["memory"], DescribeMemory=stopped)
    service = pipeline.gateway(memory=memory)._servicer
    told = {}
    for tenant, key_id in (("alpha", "k1"), ("beta", "k2"), ("", OPERATOR)):
        set_tenant(tenant, key_id)
        try:
            status = await service.GetStatus(larimar_pb2.GetStatusRequest(), None)
        finally:
            set_tenant("")
        (detail,) = [one.detail for one in status.services if one.name == "memory"]
        told[key_id] = detail.split("; ")[1:]
    both = ["STOPPED alpha/vault: version 3", "STOPPED alpha-2/vault: version 3"]
    assert told == {"k1": both[:1], "k2": [], OPERATOR: both}


# The command


def run(*args: str, data_dir) -> dict:
    done = command("key", *args, "--data-dir", str(data_dir), "--json", text=True)
    if done.returncode:
        return json.loads(done.stderr)["error"]
    return json.loads(done.stdout)


def test_the_operator_makes_the_first_key_without_one(tmp_path) -> None:
    assert run("list", data_dir=tmp_path / "none")["code"] == "NO_DATA_DIR"
    made = run("create", "--tenant", "acme", "--scopes", "read, edit", "--name", "n",
               data_dir=tmp_path)  # fmt: skip
    assert split_key(made["key"])[0] == made["id"] and made["scopes"] == ["read", "edit"]
    with EmbeddedStore(tmp_path) as served:  # as while a pipeline is up
        second = run("create", data_dir=tmp_path)
        assert second["tenant"] == "default"
        with redis.Redis.from_url(served.url) as client:
            assert client.hlen("larimar:keys") == 2
    listed = run("list", data_dir=tmp_path)["keys"]
    assert [one["id"] for one in listed] == [made["id"], second["id"]]
    secret = split_key(made["key"])[1]
    assert secret not in json.dumps(listed)
    assert run("revoke", made["id"], data_dir=tmp_path)["revoked_ms"] > 0
    assert run("list", data_dir=tmp_path)["keys"][0]["revoked_ms"] > 0
    assert run("revoke", "0" * 16, data_dir=tmp_path)["code"] == "UNKNOWN_KEY"
    assert run("create", "--scopes", "root", data_dir=tmp_path)["code"] == "BAD_SCOPE"
    assert secret.encode() not in (tmp_path / "store.log").read_bytes()


def test_a_damaged_record_is_an_error_and_no_key() -> None:
    for text in ("{", "[]", '{"key_id": "x"}'):
        with pytest.raises(LarimarError):
            ApiKey.from_json(text)
