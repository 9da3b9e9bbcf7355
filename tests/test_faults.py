"""SIGKILL under load: every acknowledged edit is there, once, and replay matches.

LARIMAR_CHAOS_ROUNDS sets the number of rounds, LARIMAR_CHAOS_SEED repeats a run.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time

import pytest

import larimar
from tests.pipelines import RunningPipeline, pipeline

ROUNDS = int(os.environ.get("LARIMAR_CHAOS_ROUNDS", "5"))
SEED = int(os.environ.get("LARIMAR_CHAOS_SEED", str(random.SystemRandom().randrange(10**6))))
VICTIMS = ("store", "memory", "gateway", "scope", "encoder", "decoder", "tree")
pytestmark = pytest.mark.timeout(120 + 120 * ROUNDS)


class Publisher:
    """Writes facts one after the other, retrying each under its event id until acknowledged."""

    def __init__(self, target: str, name: str) -> None:
        self.target = target
        self.name = name
        self.acknowledged: dict[str, int] = {}
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._publish)

    def _publish(self) -> None:
        number = 0
        client = larimar.connect(self.target, timeout_s=10.0)
        while not self.stopping.is_set():
            event_id = f"{self.name}-{number}"
            try:
                edit = client.write(
                    f"The keeper of lighthouse {self.name} {number} is",
                    f"Marlo {number}",
                    fact_id=f"{self.name}-{number % 40}",
                    event_id=event_id,
                    bank="chaos",
                )
            except (larimar.Unavailable, larimar.DeadlineExceeded, larimar.Cancelled):
                time.sleep(0.05)
                continue
            except larimar.LarimarError as error:
                if error.code != 2:  # UNKNOWN: the connection died under the call
                    raise
                continue
            self.acknowledged[event_id] = edit.version
            number += 1
        client.close()


def kill(running: RunningPipeline, victim: str) -> None:
    """SIGKILL for one process, or for all of them and a new start."""
    if victim == "tree":
        running.kill_tree()
        running.up()
        return
    if victim == "store":
        pid = running.facts()["store_pid"]
    else:
        with larimar.connect(running.target, timeout_s=30.0) as client:
            pid = {one.name: one.pid for one in client.status().services}[victim]
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def test_sigkill_of_everything_in_turn_loses_no_acknowledged_edit(tmp_path) -> None:
    print(f"LARIMAR_CHAOS_SEED={SEED}")
    rng = random.Random(SEED)
    victims = list(VICTIMS) * (1 + ROUNDS // len(VICTIMS))
    rng.shuffle(victims)
    victims = ["store", "tree", *victims][: max(2, ROUNDS)]
    with pipeline(tmp_path / "data", "--no-ray") as running:
        with larimar.connect(running.target) as client:
            client.create_bank("chaos")
        publishers = [Publisher(running.target, name) for name in ("a", "b", "c")]
        for publisher in publishers:
            publisher.thread.start()
        try:
            for victim in victims:
                time.sleep(rng.uniform(0.2, 1.5))
                kill(running, victim)
                time.sleep(rng.uniform(0.5, 1.5))
        finally:
            for publisher in publishers:
                publisher.stopping.set()
            for publisher in publishers:
                publisher.thread.join(60)
        with larimar.connect(running.target, timeout_s=120.0) as client:
            events = list(client.events("chaos"))
            versions = [event.version for event in events]
            assert versions == list(range(1, len(events) + 1)), "versions are dense"
            by_event = {event.event_id: event.version for event in events}
            assert len(by_event) == len(events), "one entry for each event id"
            for publisher in publishers:
                assert publisher.acknowledged, f"{publisher.name} wrote nothing"
                for event_id, version in publisher.acknowledged.items():
                    assert by_event.get(event_id) == version, f"{event_id} was acknowledged"
            assert client.replay("chaos").matches
            newest = {event.fact_id: event.version for event in events}
            assert {fact.fact_id: fact.version for fact in client.facts("chaos")} == newest


def test_store_gone_fails_within_the_deadline_and_recovers(tmp_path) -> None:
    with (
        pipeline(tmp_path / "data", "--no-ray") as running,
        larimar.connect(running.target, timeout_s=30.0) as client,
    ):
        client.write("The capital of Velmora is", "Tarsin", fact_id="velmora")
        store = running.facts()["store_pid"]
        os.kill(store, signal.SIGSTOP)
        try:
            started = time.monotonic()
            with pytest.raises((larimar.Unavailable, larimar.DeadlineExceeded)):
                client.write("The capital of Ostrel is", "Quill", timeout_s=3.0)
            with pytest.raises((larimar.Unavailable, larimar.DeadlineExceeded)):
                client.ask("The capital of Velmora is", max_tokens=3, timeout_s=3.0)
            assert time.monotonic() - started < 15.0
        finally:
            os.kill(store, signal.SIGCONT)
        answer = client.ask("The capital of Velmora is", max_tokens=3)
        assert answer.fact_id == "velmora"
        assert client.replay().matches
