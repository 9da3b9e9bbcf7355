"""What `larimar doctor` finds: real faults of a real store, and a pipeline that is up, or not."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import shutil
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from larimar.errors import DataLoss, Unavailable
from larimar.security import Security
from larimar.v1 import larimar_pb2 as pb
from services.contracts import add_servicer
from services.doctor import host, store
from services.doctor import pipeline as pipeline_module
from services.doctor.findings import FAIL, OK, WARN, Finding, worst
from services.doctor.pipeline import Pipeline, banks_of, check_followers, check_services
from services.gateway.auth import OperatorInterceptor
from services.gateway.edge import server_credentials
from services.inbox import Death, Settled
from services.keys import new_key
from services.redis_inbox import RedisInbox
from services.redis_keys import RedisKeys
from services.redis_log import RedisLog
from services.rpc import start_server
from services.settings import DEFAULT_MODEL, Settings
from services.store import EmbeddedStore
from tests.command_line import command
from tests.gateway_calls import ANSWER, PROMPT, write
from tests.in_process import Door, Weights
from tests.in_process import Pipeline as InProcess
from tests.logs import CONFIG
from tests.test_tls import pki  # noqa: F401


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStore]:
    with EmbeddedStore(tmp_path_factory.mktemp("doctor")) as running:
        yield running


@pytest.fixture
def raw(served: EmbeddedStore) -> Iterator[redis.Redis]:
    """A client that may do to the store what its owner may; all is set back afterwards."""
    with redis.Redis.from_url(served.url) as client:
        client.flushall()
        before = {name: client.config_get(name)[name] for name in CHANGED}
        yield client
        for name, value in before.items():
            client.config_set(name, value)
        client.flushall()


CHANGED = ("appendonly", "appendfsync", "maxmemory", "maxmemory-policy", "save")


async def found(served: EmbeddedStore, settings: Settings | None = None) -> dict[str, Finding]:
    """What is found of the store, by what was looked at."""
    return by_check(await store.check_store(served.url, settings or Settings()))


def by_check(findings: Iterable[Finding]) -> dict[str, Finding]:
    findings = list(findings)
    assert all(bool(one.do) == (one.level != OK) for one in findings), "a fault says what to do"
    return {one.check: one for one in findings}


async def test_a_store_as_it_should_be_has_no_fault(served: EmbeddedStore, raw) -> None:
    findings = await found(served)
    assert {one.check: one.found for one in findings.values() if one.level != OK} == {}
    assert {"store.reachable", "store.version", "store.memory", "store.file", "store.rewrite",
            "store.role", "store.clock", "store.erasures", "store.dead-letters", "store.inbox",
            "store.keys", "store.appendfsync"} <= set(findings)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "level"),
    [
        ("appendfsync", "everysec", FAIL),
        ("maxmemory-policy", "allkeys-lru", FAIL),
        ("save", "3600 1", WARN),
    ],
)
async def test_a_setting_that_promises_rest_on(served, raw, name, value, level) -> None:
    raw.config_set(name, value)
    finding = (await found(served))[f"store.{name}"]
    assert finding.level == level and value in finding.found
    assert f"CONFIG SET {name}" in finding.do


async def test_a_store_that_writes_no_file(served: EmbeddedStore, raw) -> None:
    raw.config_set("appendonly", "no")
    findings = await found(served)
    assert findings["store.appendonly"].level == findings["store.file"].level == FAIL


async def test_a_store_that_is_almost_full(served: EmbeddedStore, raw) -> None:
    used = raw.info("memory")["used_memory"]
    for share, level in ((0.5, OK), (0.9, WARN), (0.99, FAIL)):
        raw.config_set("maxmemory", int(used / share))
        assert (await found(served))["store.memory"].level == level, share


async def test_a_store_without_the_replicas_that_edits_wait_for(served, raw) -> None:
    finding = (await found(served, Settings(redis_replicas=1)))["store.role"]
    assert finding.level == FAIL and "NOT_CONFIRMED" in finding.do


async def test_what_waits_in_the_store(served: EmbeddedStore, raw) -> None:
    log, inbox, keys = RedisLog(served.url), RedisInbox(served.url), RedisKeys(served.url)
    await log.make_bank("acme", "default", CONFIG)
    await log.put_job("acme", "default", "erase:default:e")
    await inbox.append("acme", b"{}")
    entry_id = await inbox.append("default", b"{}")
    await inbox.take("default", 1, 10)
    await inbox.settle("default", [Settled(entry_id, Death(b"{}", "BAD_EVENT", "no event", 1))])
    guarded = Settings(require_keys=True)
    findings = await found(served, guarded)
    for check in ("store.erasures", "store.dead-letters", "store.inbox", "store.keys"):
        assert findings[check].level == WARN, check
    assert (
        "acme" in findings["store.inbox"].found
        and "default: 1" in findings["store.dead-letters"].found
    )
    await keys.add(new_key("acme", ["read"], "")[0])
    assert (await found(served, guarded))["store.keys"].level == OK
    for one in (log, inbox, keys):
        await one.close()


async def test_a_store_that_forbids_config_is_looked_at_all_the_same(served, raw) -> None:
    raw.execute_command("ACL", "SETUSER", "shy", "on", ">secret", "~*", "&*", "+@all", "-config")
    try:
        url = served.url.replace("unix://", "unix://shy:secret@")
        findings = by_check(await store.check_store(url, Settings()))
        assert findings["store.settings"].level == WARN
        assert findings["store.appendonly"].level == OK
        raw.config_set("appendonly", "no")
        findings = by_check(await store.check_store(url, Settings()))
        assert findings["store.appendonly"].level == FAIL
    finally:
        raw.execute_command("ACL", "DELUSER", "shy")


async def test_a_store_that_is_not_there(tmp_path: Path) -> None:
    findings = by_check(await store.check_store(f"unix://{tmp_path}/none.sock", Settings()))
    assert list(findings) == ["store.reachable"] and worst(findings.values()) == FAIL


async def test_a_clock_that_is_off(served: EmbeddedStore, raw, monkeypatch) -> None:
    clock = store.time.time
    for seconds, level in ((0, OK), (-60, WARN), (3600, FAIL)):
        monkeypatch.setattr(store.time, "time", lambda off=seconds: clock() + off)
        assert (await found(served))["store.clock"].level == level, seconds


# A pipeline


@pytest.fixture
async def running(
    weights: Weights, served: EmbeddedStore, raw, tmp_path: Path, monkeypatch
) -> AsyncIterator[tuple[Pipeline, InProcess]]:
    """The private socket of a whole pipeline over the store; a slow look is no finding here."""
    monkeypatch.setattr(pipeline_module, "SLOW_S", 600.0)
    log = RedisLog(served.url)
    behind = InProcess(weights, log)
    server, _ = await start_server(
        f"unix:{tmp_path}/s",
        add_servicer("gateway", behind.gateway()._servicer),
        interceptors=[OperatorInterceptor()],
    )
    made = Pipeline(f"unix:{tmp_path}/s", Security())
    yield made, behind
    made.close()
    await server.stop(grace=0)
    await log.close()


async def asked(call: Any, *given: Any) -> Any:
    """What a check answers that calls this loop's own server."""
    return await asyncio.to_thread(call, *given)


async def test_services_banks_and_replays_of_every_tenant(running, served) -> None:
    pipeline, behind = running
    for tenant in ("default", "acme"):
        gateway = behind.gateway(tenant)
        await gateway.CreateBank(pb.CreateBankRequest(bank="books"))
        await write(gateway, "books", PROMPT, ANSWER)
    findings, digest = await asked(check_services, pipeline)
    assert worst(findings) == OK and digest == behind.weights.folder.model_digest
    assert {"pipeline.encoder", "pipeline.memory", "bank.stopped"} <= set(by_check(findings))
    heads = await banks_of(served.url)
    assert heads == {("default", "books"): 1, ("acme", "books"): 1}
    findings = await asked(check_followers, pipeline, heads, True)
    assert worst(findings) == OK
    assert sorted(one.found.split(":")[0] for one in findings if one.check == "bank.digest") == [
        "acme/books",
        "default/books",
    ]
    behind_its_log = {**heads, ("default", "books"): 7}
    findings = by_check(await asked(check_followers, pipeline, behind_its_log, False))
    assert findings["bank.lag"].level == WARN and "default/books" in findings["bank.lag"].found


async def test_a_stopped_bank_is_named_with_what_to_do(running, raw, served) -> None:
    pipeline, behind = running
    gateway = behind.gateway()
    await gateway.CreateBank(pb.CreateBankRequest(bank="broken"))
    await write(gateway, "broken", PROMPT, ANSWER)
    raw.delete("{default:broken}:broken:payload:1")
    with pytest.raises(DataLoss):
        await gateway.Replay(pb.ReplayRequest(bank="broken"))
    findings = await asked(check_followers, pipeline, await banks_of(served.url), True)
    faults = [one for one in findings if one.level == FAIL]
    assert faults and all("default/broken" in one.found for one in faults)


async def test_a_service_that_is_down(weights: Weights, tmp_path: Path) -> None:
    async def down(request: Any, call: Any) -> Any:
        raise Unavailable("the decoder service does not answer: retry", "SERVICE_DOWN")

    behind = InProcess(weights)
    gateway = behind.gateway(decoder=Door(behind.doors["decoder"], DescribeDecoder=down))
    server, port = await start_server("127.0.0.1:0", add_servicer("gateway", gateway._servicer))
    pipeline = Pipeline(f"127.0.0.1:{port}", Security())
    findings, _ = await asked(check_services, pipeline)
    assert by_check(findings)["pipeline.decoder"].level == FAIL
    pipeline.close()
    await server.stop(grace=0)
    lost = Pipeline(f"127.0.0.1:{port}", Security())
    findings, digest = await asked(check_services, lost)
    assert [one.level for one in findings] == [FAIL] and digest == ""
    lost.close()


# This machine


def test_packages_are_compared_with_their_pins(tmp_path: Path) -> None:
    pins = tmp_path / "constraints.txt"
    pins.write_text(f"pytest=={pytest.__version__}\nredis==0.0.1\nnot-installed==1\n")
    finding = by_check(host.check_packages(pins))["host.packages"]
    assert finding.level == WARN and finding.found.endswith("(pinned 0.0.1)")
    pins.write_text(f"pytest=={pytest.__version__}\n")
    assert worst(host.check_packages(pins)) == OK


def test_a_disk_without_room_for_a_rewrite(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "appendonlydir").mkdir()
    with (tmp_path / "appendonlydir" / "a.aof").open("wb") as file:
        file.truncate(2**30)
    usage = type(shutil.disk_usage(tmp_path))
    for free, level in ((2**35, OK), (2**30 + 2**20, WARN), (2**29, FAIL)):
        monkeypatch.setattr(host.shutil, "disk_usage", lambda _, f=free: usage(2**36, 0, f))
        assert by_check(host.check_disk(tmp_path))["host.disk"].level == level


def test_a_model_folder_that_is_damaged_or_not_what_serves(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(DEFAULT_MODEL, folder, symlinks=True)
    settings = Settings(model=str(folder))
    assert worst(host.check_model(settings, "")) == OK
    assert by_check(host.check_model(settings, "0" * 64))["model.served"].level == WARN
    unknown = dataclasses.replace(settings, detector="guess")
    assert by_check(host.check_model(unknown, ""))["model.scope"].level == FAIL
    tokenizer = folder / "tokenizer.json"
    content = tokenizer.read_bytes()
    tokenizer.unlink()
    tokenizer.write_bytes(content + b" ")
    assert "tokenizer.json" in by_check(host.check_model(settings, ""))["model.folder"].found
    assert worst(host.check_model(Settings(model=str(tmp_path)), "")) == FAIL


@pytest.mark.parametrize(
    ("address", "keys", "tls", "level"),
    [
        ("127.0.0.1", False, False, OK),
        ("localhost", False, False, OK),
        ("0.0.0.0", False, True, FAIL),
        ("10.0.0.7", True, False, WARN),
        ("::", True, True, OK),
    ],
)
def test_who_may_come_in(address: str, keys: bool, tls: bool, level: str) -> None:
    assert host.check_openness(address, keys, tls).level == level


async def test_a_certificate_that_ends_soon(pki, monkeypatch) -> None:  # noqa: F811
    settings = Settings(tls_cert=str(pki.server.cert), tls_key=str(pki.server.key))
    server, port = await start_server("127.0.0.1:0", lambda _: [], server_credentials(settings))
    finding = await asked(host.check_certificate, "127.0.0.1", port)
    assert finding.check == "port.certificate" and "days" in finding.found
    for warn, fail, level in ((0, -1, OK), (10**6, 0, WARN), (10**6, 10**6, FAIL)):
        monkeypatch.setattr(host, "CERTIFICATE_WARN_DAYS", warn)
        monkeypatch.setattr(host, "CERTIFICATE_FAIL_DAYS", fail)
        assert (await asked(host.check_certificate, "127.0.0.1", port)).level == level
    await server.stop(grace=0)


def test_a_torn_ledger(tmp_path: Path) -> None:
    settings = Settings(data_dir=str(tmp_path))
    assert host.check_ledger(settings).level == OK
    (tmp_path / "erase-ledger.jsonl").write_text('{"tenant": "t", "ba\n')
    assert host.check_ledger(settings).level == FAIL


# The command


def test_it_runs_when_nothing_does_and_says_what_it_could_not_see(tmp_path: Path) -> None:
    done = command("doctor", "--data-dir", str(tmp_path), "--json", text=True, timeout=300)
    assert done.returncode == 1, done.stderr
    findings = {one["check"]: one for one in json.loads(done.stdout)["findings"]}
    assert findings["pipeline.answers"]["level"] == FAIL
    assert findings["store.reachable"]["level"] == WARN
    assert findings["model.folder"]["level"] == OK


def test_it_sees_a_store_whose_pipeline_is_down(served: EmbeddedStore, raw) -> None:
    raw.config_set("appendfsync", "everysec")
    done = command("doctor", "--data-dir", str(served.data_dir), text=True, timeout=300)
    assert done.returncode == 1
    assert "store.appendfsync" in done.stdout and "no pipeline runs" in done.stdout
