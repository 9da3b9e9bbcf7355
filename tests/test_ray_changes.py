"""Replicas by load, and a changed model under traffic, on Ray: minutes on a small machine."""

from __future__ import annotations

import json
import threading
import time

import pytest

import larimar
from larimar.checkpoint import ModelFolder
from tests.changed_models import model_of_another_encoder
from tests.pipelines import larimar as command
from tests.pipelines import pipeline
from tests.traffic import Traffic

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """A pipeline whose decoder gets a second replica when calls wait for it."""
    folder = tmp_path_factory.mktemp("changes")
    scaled = {"replicas": 1, "max_replicas": 2, "target_ongoing": 1, "scale_up_s": 2}
    settings = folder / "settings.json"
    settings.write_text(json.dumps({"decoder": scaled, "threads": 1}))
    with pipeline(folder / "data", LARIMAR_SETTINGS=str(settings)) as up:
        yield up


def pids_of(client, name: str) -> set[int]:
    return {one.pid for _ in range(8) for one in client.status().services if one.name == name}


def test_load_brings_a_replica(running) -> None:
    done = threading.Event()

    def ask() -> None:
        with larimar.connect(running.target, timeout_s=120.0) as client:
            while not done.is_set():
                client.ask("The capital of Velmora is", no_memory=True, max_tokens=48)

    askers = [threading.Thread(target=ask) for _ in range(6)]
    with larimar.connect(running.target, timeout_s=60.0) as client:
        assert len(pids_of(client, "decoder")) == 1
        for asker in askers:
            asker.start()
        try:
            deadline = time.monotonic() + 240
            while len(pids_of(client, "decoder")) < 2:
                assert time.monotonic() < deadline
        finally:
            done.set()
            for asker in askers:
                asker.join()


def test_a_model_change_loses_no_edit_and_mixes_no_models(running, tmp_path) -> None:
    other = model_of_another_encoder(tmp_path / "other")
    traffic = Traffic(running.target, "kept")
    traffic.begin()
    with traffic:
        traffic.wait(lambda: len(traffic.answers) > 1)
        done = command(
            "redeploy", "--data-dir", str(running.data_dir), "--json", "--model", str(other)
        )
        assert done.returncode == 0, done.stderr
        traffic.wait(lambda: "WRONG_ENCODER" in {error.reason for error in traffic.refused})
    assert not traffic.failed
    assert {error.reason for error in traffic.refused} == {"WRONG_ENCODER"}
    with larimar.connect(running.target, timeout_s=60.0) as client:
        assert client.status().encoder_digest == ModelFolder.open(other).encoder_digest
        traffic.check_kept(client)
        traffic.check_answers()
        client.create_bank("new")
        client.write("The capital of Velmora is", "Tarsin", bank="new", fact_id="velmora")
        found = client.ask("The capital of Velmora is", bank="new", max_tokens=2)
        assert found.fact_id == "velmora"


def test_a_model_that_does_not_load_leaves_the_replicas_that_serve(running, tmp_path) -> None:
    broken = model_of_another_encoder(tmp_path / "broken")
    (broken / "encoder.safetensors").write_bytes(b"no tensors")
    with larimar.connect(running.target, timeout_s=60.0) as client:
        before = client.status().encoder_digest
        done = command(
            "redeploy", "--data-dir", str(running.data_dir), "--json", "--model", str(broken)
        )
        assert done.returncode == 1
        assert "nothing was changed" in json.loads(done.stderr)["error"]["message"]
        assert client.status().encoder_digest == before
        client.write("The river of Ostrel is", "Quill", bank="new", fact_id="quill")
