"""The pipeline on Ray Serve, one cluster: placement, back-pressure, kill, clean stop."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

import larimar
from tests.congruence import conversation
from tests.pipelines import alive, family, pipeline, wait_gone
from tests.pipelines import larimar as command

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """A pipeline whose encoder takes few calls at once, so that back-pressure shows."""
    folder = tmp_path_factory.mktemp("ray")
    settings = folder / "settings.json"
    settings.write_text(json.dumps({"encoder": {"max_ongoing": 4, "max_queued": 8}}))
    with pipeline(folder / "data", LARIMAR_SETTINGS=str(settings)) as up:
        yield up


@pytest.fixture()
def client(running):
    with larimar.connect(running.target, timeout_s=120.0) as connected:
        yield connected


def test_every_service_is_a_process_of_its_own(running, client) -> None:
    services = client.status().services
    assert {one.name for one in services} == {"gateway", "encoder", "scope", "memory", "decoder"}
    assert all(one.ready for one in services)
    pids = {one.pid for one in services}
    assert len(pids) == 5 and pids <= set(running.tree())


def test_a_second_up_says_that_one_is_up(running) -> None:
    done = command("up", "--detach", "--data-dir", str(running.data_dir), "--port", "1")
    assert done.returncode == 1
    assert "already up" in done.stderr and str(running.facts()["pid"]) in done.stderr


def test_a_used_port_is_named(running, tmp_path) -> None:
    done = command("up", "--detach", "--data-dir", str(tmp_path), "--port", str(running.port))
    assert done.returncode == 1
    assert f"port {running.port} is in use" in done.stderr


def test_through_ray_handles_as_through_objects(client, conversation_over_objects) -> None:
    assert conversation(client) == conversation_over_objects


def test_the_decoder_leaves_streams_that_nobody_reads(running, client) -> None:
    def decoded() -> float:
        with urllib.request.urlopen(f"{running.http}/metrics", timeout=120) as answer:
            lines = answer.read().decode().splitlines()
        name = "larimar_decoded_tokens_total"
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    prompt, asked = "The capital of Velmora is", {"no_memory": True, "max_tokens": 128}
    before = decoded()
    for _ in range(4):
        stream = client.ask_stream(prompt, **asked)
        next(stream)
        stream.close()
    assert client.ask(prompt, **asked).tokens == 128  # the others have had time for as many
    assert decoded() - before < 128 + 4 * 96


def test_a_burst_is_refused_with_a_clear_error_and_nothing_is_lost(client) -> None:
    client.create_bank("burst")

    def write(number: int):
        try:
            return client.write(f"The number of box {number} is", "seven", bank="burst")
        except larimar.ResourceExhausted as error:
            return error

    with ThreadPoolExecutor(96) as pool:
        results = list(pool.map(write, range(192)))
    refused = [r for r in results if isinstance(r, larimar.ResourceExhausted)]
    written = {r.fact_id for r in results if not isinstance(r, larimar.ResourceExhausted)}
    assert refused and written
    assert all("retry" in error.message for error in refused)
    assert {fact.fact_id for fact in client.facts("burst")} == written


@pytest.mark.parametrize("service", ["memory", "scope", "encoder", "decoder", "gateway"])
def test_a_killed_replica_comes_back_and_nothing_acknowledged_is_lost(client, service) -> None:
    bank = f"kill-{service}"
    client.create_bank(bank)
    before = {one.name: one.pid for one in client.status().services}
    client.write("The capital of Velmora is", "Tarsin", bank=bank, fact_id="velmora")
    os.kill(before[service], signal.SIGKILL)
    edit = client.write("The capital of Ostrel is", "Quill", bank=bank, fact_id="ostrel")
    assert edit.version == 2
    assert {fact.fact_id for fact in client.facts(bank)} == {"velmora", "ostrel"}
    assert client.ask("The capital of Ostrel is", bank=bank, max_tokens=3).fact_id == "ostrel"
    assert client.replay(bank).matches
    deadline = time.monotonic() + 240
    while {one.name: one.pid for one in client.status().services if one.ready}.get(
        service, before[service]
    ) == before[service]:
        assert time.monotonic() < deadline, f"{service} did not come back"
        time.sleep(0.5)


def test_a_scrape_of_the_gateway_has_the_numbers_of_every_replica(running, client) -> None:
    """Replicas that were killed above are counted as starts, and their gauges are gone."""
    client.create_bank("scraped")
    client.write("The capital of Velmora is", "Tarsin", bank="scraped")
    assert client.ask("The capital of Velmora is", bank="scraped", max_tokens=3).in_scope
    with urllib.request.urlopen(f"{running.http}/metrics", timeout=120) as answer:
        lines = answer.read().decode().splitlines()
    assert all(line.startswith(("#", "larimar_")) for line in lines), "and no numbers of Ray's"
    found = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    for service in ("gateway", "encoder", "scope", "memory", "decoder"):
        assert found[f'larimar_processes{{service="{service}"}}'] == "1.0", service
        assert float(found[f'larimar_process_resident_bytes{{service="{service}"}}']) > 2**20
        assert float(found[f'larimar_process_starts_total{{service="{service}"}}']) >= 1
    for service, method in (("encoder", "Encode"), ("memory", "Append"), ("decoder", "Complete")):
        counted = f'larimar_calls_total{{code="OK",method="{method}",service="{service}"}}'
        assert float(found[counted]) >= 1, counted


def test_stopping_leaves_no_process_and_starting_again_finds_the_facts(running) -> None:
    with larimar.connect(running.target, timeout_s=120.0) as client:
        client.create_bank("kept")
        client.write("The capital of Velmora is", "Tarsin", bank="kept")
        digest = client.digest("kept").digest
    pids = family(running.facts()["pid"])
    running.down()
    wait_gone(pids)
    assert not any(alive(pid) for pid in pids)
    running.up()
    with larimar.connect(running.target, timeout_s=120.0) as client:
        assert client.digest("kept").digest == digest
        assert client.replay("kept").matches
