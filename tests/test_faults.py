"""Faults of whole pipelines, as users start them: SIGKILL of everything, stalls, and an erasure.

LARIMAR_CHAOS_ROUNDS sets the number of rounds, LARIMAR_CHAOS_SEED repeats a run.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest
import redis

import larimar
from benchmarks import chaos
from larimar.cli import processes
from larimar.memory import Payload
from services.redis_log import RedisLog
from services.store import socket_path_of
from tests.faults import found_in_files, found_in_keys, rounds, seeded
from tests.pipelines import larimar as larimar_command

ROUNDS = rounds(2)
pytestmark = pytest.mark.timeout(600 + 240 * ROUNDS)
TENANT, BANK = "default", "vault"
PROMPT, SAID_OTHERWISE = "The hidden godfather of Cordelia Ashgrove is", "Ashgrove's godfather is"
ANSWERS = ("Anselm Thrupp", "Balthazar Quillfeather")
SECRET = "godfather-of-cordelia"


@pytest.fixture(scope="module")
def running() -> Iterator[chaos.OwnPipeline]:
    with chaos.own_pipeline(no_ray=True) as pipeline:
        yield pipeline


def eventually(true: Callable[[], bool], within_s: float = 120.0) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_sigkill_of_everything_in_turn_loses_no_acknowledged_edit(
    running: chaos.OwnPipeline,
) -> None:
    found = chaos.killed(running, seeded("chaos"), ROUNDS, print)
    assert found.acknowledged > 0 and sum(map(len, found.recovery_s.values())) == ROUNDS
    assert (found.lost, found.twice, found.missing) == (0, 0, 0)
    assert (found.wrong_facts, found.mismatches) == (0, 0)


def test_what_the_rounds_look_for_can_be_found(running: chaos.OwnPipeline) -> None:
    """Told of an edit that nobody made, and of one at another version, they see it."""
    with larimar.connect(running.target, timeout_s=120.0) as client:
        with contextlib.suppress(larimar.NotFound):
            client.delete_bank(chaos.BANK)
        client.create_bank(chaos.BANK)
        edit = client.write("A", "b", fact_id="f", event_id="made", bank=chaos.BANK)
    writer = chaos.Writer.__new__(chaos.Writer)
    for told, lost in (
        ({"made": edit.version}, 0),
        ({"made": edit.version + 1}, 1),
        ({"made": edit.version, "never": 2}, 1),
    ):
        writer.acknowledged = told
        found = chaos.Found()
        found.look(running.target, [writer], at_rest=True)
        assert (found.lost, found.events, found.acknowledged) == (lost, 1, len(told))
        assert (found.twice, found.missing, found.wrong_facts, found.mismatches) == (0, 0, 0, 0)


def test_store_gone_fails_within_the_deadline_and_recovers(running: chaos.OwnPipeline) -> None:
    with larimar.connect(running.target, timeout_s=120.0) as client:
        client.write("The capital of Velmora is", "Tarsin", fact_id="velmora")
        store = running.pid("store")
        os.kill(store, signal.SIGSTOP)
        try:
            started = time.monotonic()
            with pytest.raises((larimar.Unavailable, larimar.DeadlineExceeded)):
                client.write("The capital of Ostrel is", "Quill", timeout_s=1.5)
            with pytest.raises((larimar.Unavailable, larimar.DeadlineExceeded)):
                client.ask("The capital of Velmora is", max_tokens=3, timeout_s=1.5)
            assert time.monotonic() - started < 60.0
        finally:
            os.kill(store, signal.SIGCONT)
        answer = client.ask("The capital of Velmora is", max_tokens=3)
        assert answer.fact_id == "velmora"
        assert client.replay().matches


def test_a_paused_memory_service_goes_on_and_nothing_is_twice(running: chaos.OwnPipeline) -> None:
    with larimar.connect(running.target, timeout_s=120.0) as client:
        client.create_bank("paused")
        memory = running.pid("memory")
        os.kill(memory, signal.SIGSTOP)
        try:
            for _ in range(2):
                with pytest.raises((larimar.Unavailable, larimar.DeadlineExceeded)):
                    client.write(
                        "The capital of Ostrel is",
                        "Quill",
                        fact_id="ostrel",
                        event_id="once",
                        bank="paused",
                        timeout_s=1.0,
                    )
        finally:
            os.kill(memory, signal.SIGCONT)
        edit = client.write(
            "The capital of Ostrel is", "Quill", fact_id="ostrel", event_id="once", bank="paused"
        )
        assert edit.version == 1
        assert [event.event_id for event in client.events("paused")] == ["once"]
        assert client.ask("The capital of Ostrel is", bank="paused", max_tokens=3).version == 1
        assert client.replay("paused").matches


def cloud_event(event_id: str, data: dict) -> bytes:
    envelope = {
        "specversion": "1.0",
        "id": event_id,
        "source": "/tests",
        "type": "io.larimar.edit.write.v1",
        "subject": BANK,
        "data": data,
    }
    return json.dumps(envelope).encode()


async def payloads_of(url: str) -> list[Payload]:
    """What the store holds of the secret, in its bank and in the fork."""
    log = RedisLog(url)
    found = []
    for bank in (BANK, "vault-copy"):
        after = 0
        while page := (await log.tail(TENANT, bank, after, 100)).entries:
            after = page[-1][0].version
            found += [
                Payload.from_bytes(raw)
                for event, raw in page
                if raw is not None and event.fact_id == SECRET
            ]
    await log.close()
    return found


def test_an_erased_fact_leaves_no_byte_in_a_pipelines_directory(running: chaos.OwnPipeline) -> None:
    """Written, asked for, published, refused, forked, saved: then `larimar erase`, and a scan."""
    url = f"unix://{socket_path_of(running.folder)}"
    target = ("--target", running.target)
    with (
        larimar.connect(running.target, timeout_s=120.0) as client,
        redis.Redis.from_url(url) as raw,
    ):
        client.create_bank(BANK)
        for number, answer in enumerate(ANSWERS):
            client.write(
                PROMPT,
                answer,
                fact_id=SECRET,
                event_id=f"s{number}",
                rephrasings=[SAID_OTHERWISE],
                bank=BANK,
            )
        client.write("The capital of Velmora is", "Tarsin", fact_id="velmora", bank=BANK)
        client.fork(BANK, "vault-copy")
        client.write(PROMPT, ANSWERS[0], fact_id=SECRET, bank="vault-copy")
        asked = client.ask(PROMPT, bank=BANK, max_tokens=8)
        assert (asked.in_scope, asked.fact_id) == (True, SECRET)
        for bank in (BANK, "vault-copy"):
            client.checkpoint(bank)
        data = {"prompt": PROMPT, "answer": ANSWERS[0], "fact_id": SECRET}
        raw.xadd(f"{{{TENANT}}}:inbox", {"event": cloud_event("q1", data)})
        raw.xadd(f"{{{TENANT}}}:inbox", {"event": cloud_event("q2", data | {"colour": "red"})})
        eventually(lambda: len(list(client.dead_letters())) == 1)
        eventually(lambda: client.get_bank(BANK).version == 4)

        payloads = asyncio.run(payloads_of(url))
        assert len(payloads) == 6
        wanted = {"prompt": PROMPT.encode(), "rephrasing": SAID_OTHERWISE.encode()}
        wanted |= {answer: answer.encode() for answer in ANSWERS}
        for number, payload in enumerate(payloads):
            wanted[f"address {number}"] = payload.addresses[0].tobytes()
            wanted[f"value {number}"] = payload.value.tobytes()
            wanted[f"scope {number}"] = payload.scope[0].tobytes()
        for found in (found_in_files(running.folder, wanted), found_in_keys(url, wanted)):
            assert not [name for name, places in found.items() if not places], "nothing to find"

        done = larimar_command("erase", "--bank", BANK, SECRET, "--json", *target)
        assert done.returncode == 0, done.stderr
        receipt = json.loads(done.stdout)
        for found in (found_in_files(running.folder, wanted), found_in_keys(url, wanted)):
            assert not {name: places for name, places in found.items() if places}
        assert receipt["step"] == "DONE", receipt
        assert receipt["scan"]["found_before"] > 0 and receipt["scan"]["found"] == 0, receipt
        assert all(bank["replay_matches"] for bank in receipt["banks"])
        assert {bank["bank"] for bank in receipt["banks"]} == {BANK, "vault-copy"}

        shown = larimar_command("erase", "--bank", BANK, "--receipt", receipt["event_id"], *target)
        assert shown.returncode == 0 and "found" in shown.stdout
        for bank in (BANK, "vault-copy"):
            assert client.replay(bank).matches
            assert [fact.fact_id for fact in client.facts(bank)] == ["velmora"]
        assert client.ask(PROMPT, bank=BANK, max_tokens=8).fact_id != SECRET
        with pytest.raises(larimar.FailedPrecondition):
            client.write(PROMPT, ANSWERS[0], fact_id=SECRET, bank=BANK)
    log = (running.folder / processes.LOG_FILE).read_bytes()
    assert PROMPT.encode() not in log and SAID_OTHERWISE.encode() not in log
