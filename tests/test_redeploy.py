"""A pipeline that changes its model and settings while it serves, one process a service."""

from __future__ import annotations

import json

import pytest

import larimar
from larimar.checkpoint import ModelFolder
from services.settings import DEFAULT_MODEL
from tests.changed_models import model_of_another_encoder
from tests.pipelines import larimar as command
from tests.pipelines import pipeline
from tests.traffic import Traffic

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with pipeline(tmp_path_factory.mktemp("redeploy") / "data", "--no-ray") as up:
        yield up


def redeploy(running, *options: str):
    return command("redeploy", "--data-dir", str(running.data_dir), "--json", *options)


@pytest.fixture()
def client(running):
    with larimar.connect(running.target, timeout_s=120.0) as connected:
        yield connected


def pids(client) -> dict[str, int]:
    return {one.name: one.pid for one in client.status().services}


def test_what_cannot_be_served_is_refused_and_changes_nothing(running, client, tmp_path) -> None:
    before = pids(client)
    settings = tmp_path / "settings.json"
    for text, message in (
        ('{"host": "0.0.0.0"}', "host is '127.0.0.1' while the pipeline runs"),
        ('{"model": "nowhere"}', "no model folder"),
        ('{"threads": 2, "colour": 1}', "bad settings"),
    ):
        settings.write_text(text)
        done = redeploy(running, "--settings", str(settings))
        assert done.returncode == 1 and message in json.loads(done.stderr)["error"]["message"]
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in DEFAULT_MODEL.iterdir():
        (broken / file.name).symlink_to(file)
    (broken / "encoder.safetensors").unlink()
    done = redeploy(running, "--model", str(broken))
    assert done.returncode == 1 and "encoder did not start" in done.stderr
    assert pids(client) == before


@pytest.mark.slow
def test_a_model_change_loses_no_edit_and_mixes_no_models(running, client, tmp_path) -> None:
    other = model_of_another_encoder(tmp_path / "other")
    before, traffic = pids(client), Traffic(running.target, "kept")
    traffic.begin()
    digest = client.digest("kept").digest
    with traffic:
        traffic.wait(lambda: len(traffic.answers) > 1)
        done = redeploy(running, "--model", str(other))
        assert done.returncode == 0, done.stderr
        traffic.wait(lambda: {e.reason for e in traffic.refused} >= {"WRONG_ENCODER"})
    assert not traffic.failed
    assert {error.reason for error in traffic.refused} == {"WRONG_ENCODER"}
    after = pids(client)
    assert not set(before.values()) & set(after.values())
    assert client.status().encoder_digest == ModelFolder.open(other).encoder_digest
    traffic.check_kept(client)
    traffic.check_answers()
    with pytest.raises(larimar.FailedPrecondition, match="made with encoder"):
        client.ask(next(iter(traffic.before)), bank="kept")
    client.forget(max(traffic.acknowledged, key=traffic.acknowledged.get), bank="kept")
    assert client.digest("kept").digest != digest

    client.create_bank("new")
    client.write("The capital of Velmora is", "Tarsin", bank="new", fact_id="velmora")
    assert client.ask("The capital of Velmora is", bank="new", max_tokens=2).fact_id == "velmora"

    again = Traffic(running.target, "fresh")
    again.begin()
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({"threads": 1}))
    with again:
        assert redeploy(running, "--settings", str(settings)).returncode == 0
    assert not again.failed and not again.refused, "the same model: no call may fail"
    again.check_kept(client)
    again.check_answers()
    assert client.status().encoder_digest == ModelFolder.open(other).encoder_digest


def test_a_pipeline_that_is_not_up_cannot_be_redeployed(tmp_path) -> None:
    done = command("redeploy", "--data-dir", str(tmp_path), "--json")
    assert done.returncode == 1
    assert json.loads(done.stderr)["error"]["code"] == "NOT_UP"
