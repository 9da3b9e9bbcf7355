"""HTTP on Ray Serve: two replicas of the gateway on one port, one killed, all replaced."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator

import httpx2 as httpx
import openai
import pytest

import larimar
from tests.gateway_calls import ANSWER, PROMPT
from tests.pipelines import RunningPipeline, pipeline

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]
BACK_S = 240.0
"""Time that a killed gateway has to be there again."""


@pytest.fixture(scope="module")
def running(tmp_path_factory) -> Iterator[RunningPipeline]:
    folder = tmp_path_factory.mktemp("ray-http")
    settings = folder / "settings.json"
    settings.write_text(json.dumps({"gateway": {"replicas": 2}}))
    with pipeline(folder / "data", LARIMAR_SETTINGS=str(settings)) as up:
        yield up


def gateway_of(url: str) -> int | None:
    """The process that answers a connection of its own; None when none does."""
    with contextlib.suppress(httpx.TransportError, KeyError):
        found = httpx.get(f"{url}/v1/status", timeout=120.0).json()["services"]
        return next(one["pid"] for one in found if one["name"] == "gateway")
    return None


def gateways(url: str, wanted: int, without: frozenset[int] = frozenset()) -> set[int]:
    """Waits until this many other gateways have answered."""
    found: set[int] = set()
    deadline = time.monotonic() + BACK_S
    while len(found) < wanted:
        assert time.monotonic() < deadline, found
        found |= {gateway_of(url)} - {None} - without
    return found


def test_replicas_share_the_port_and_one_that_is_killed_comes_back(running) -> None:
    before = gateways(running.http, 2)
    with larimar.connect(running.target, timeout_s=120.0) as client:
        client.write(PROMPT, ANSWER, fact_id="velmora")
    os.kill(min(before), signal.SIGKILL)
    asked = openai.OpenAI(
        base_url=f"{running.http}/v1", api_key="none", max_retries=5, timeout=120.0
    )
    for _ in range(5):
        made = asked.completions.create(model="larimar", prompt=PROMPT, max_tokens=8)
        assert (made.choices[0].text, made.larimar["fact_id"]) == ("tarsin", "velmora")
    asked.close()
    assert len(gateways(running.http, 1, frozenset(before))) == 1


def test_a_stream_of_the_log_goes_on_at_another_replica(running) -> None:
    bank = f"{running.http}/v1/banks/default"
    with httpx.stream("GET", f"{bank}/events/stream", timeout=120.0) as stream:
        lines = stream.iter_lines()
        seen = next(lines).removeprefix("id: ")
    killed = gateways(running.http, 2)
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    gateways(running.http, 1, frozenset(killed))
    fact = {"prompt": "The capital of Ostrel is", "answer": "Quill", "event_id": "ostrel"}
    assert httpx.post(f"{bank}/facts", json=fact, timeout=120.0).status_code == 200
    again = {"last-event-id": seen}
    with httpx.stream("GET", f"{bank}/events/stream", headers=again, timeout=120.0) as stream:
        lines = stream.iter_lines()
        assert int(next(lines).removeprefix("id: ")) == int(seen) + 1
