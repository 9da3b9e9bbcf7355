"""Many workers: what two of them compute together is what one computes alone."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import pytest
import torch

from larimar.checkpoint import ModelFolder
from tests.command_line import ROOT, free_port
from tests.training_runs import (
    loop,
    tiny_episodic,
    tiny_pretraining,
    write_corpus,
    write_warm_start,
)
from training.recipes import to_json


@pytest.fixture(scope="module")
def warm_start(tmp_path_factory):
    return write_warm_start(tmp_path_factory.mktemp("warm"))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


CASES = {"episodic": tiny_episodic, "pretraining": tiny_pretraining, "shard": tiny_episodic}


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | more


@pytest.fixture(scope="module")
def two(warm_start, corpus, tmp_path_factory):
    """A folder for each case, run by two processes with the variables that torchrun sets."""
    folders = {name: tmp_path_factory.mktemp(name) for name in CASES}
    for name, stage in CASES.items():
        (folders[name] / "given.json").write_text(to_json(stage(warm_start)))
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.training_worker", corpus, *folders.values()],
            cwd=ROOT,
            env=environment(RANK=str(rank), LOCAL_RANK="0", **shared),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in range(2)
    ]
    for worker in workers:
        said, _ = worker.communicate(timeout=480)
        assert worker.returncode == 0, said.decode()[-3000:]
    return folders


@pytest.mark.parametrize("case", CASES)
def test_two_workers_have_the_losses_of_one_and_resume_to_them(
    warm_start, corpus, two, tmp_path, case
) -> None:
    one = loop(CASES[case](warm_start), corpus, tmp_path)
    wanted = [one.train_step() for _ in range(3)]
    found = json.loads((two[case] / "losses.json").read_text())
    for step in range(3):
        assert found[step] == pytest.approx(wanted[step], rel=1e-5, abs=1e-5)
    trained = one.stage.parts.networks.modules().state_dict()
    saved = ModelFolder.open(two[case] / "model").networks().modules().state_dict()
    for name, tensor in trained.items():
        torch.testing.assert_close(saved[name], tensor, atol=1e-4, rtol=1e-3)


@pytest.mark.ray
def test_two_workers_of_ray_train_have_the_losses_of_one(warm_start, corpus, tmp_path) -> None:
    recipe = dataclasses.replace(tiny_episodic(warm_start), steps=2)
    out = tmp_path / "two"
    out.mkdir()
    (out / "given.json").write_text(to_json(recipe))
    options = ["--precision", "float32", "--log-every", "1", "--threads", "1", "--device", "cpu"]
    paths = ["--corpus", str(corpus), "--out", str(out), "--workers", "2"]
    ran = subprocess.run(
        [sys.executable, "-m", "training", str(out / "given.json"), *paths, *options],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        timeout=480,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr.decode()[-3000:]
    one = loop(recipe, corpus, tmp_path / "one")
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for step in range(2):
        wanted = one.train_step()
        found = {name: records[step][name] for name in wanted}
        assert found == pytest.approx(wanted, rel=1e-5, abs=1e-5)
