"""The RayService's pipeline on two Ray nodes of one machine, one of which is lost."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import larimar
from infra import check
from services.settings import quiet_environment
from services.store import EmbeddedStore
from tests.command_line import ROOT, environment, free_port
from tests.pipelines import alive, family, wait_gone
from tests.test_infra import SERVICE, settings_of_the_cluster
from tests.traffic import Traffic

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

SERVICES = ("encoder", "scope", "memory", "decoder", "gateway")


def serve_config(folder: Path, port: int) -> dict:
    """The RayService's own on this machine: no GPU, keys or TLS; two replicas of each service."""
    config = check.serve_config(SERVICE)
    (application,) = config["applications"]
    settings = folder / "settings.json"
    settings.write_text(settings_of_the_cluster().to_json())
    twice = {"replicas": 2, "max_replicas": 0}
    application["args"] |= {
        "settings": str(settings),
        "data_dir": str(folder / "data"),
        "erase_ledger": str(folder / "ledger.jsonl"),
        "model": str(ROOT / "models" / "larimar-small"),
        "host": "127.0.0.1",
        "port": port,
        "http_port": free_port(),
        "threads": 1,
        "require_keys": False,
        "tls_cert": "",
        "tls_key": "",
        **{name: {**twice, "gpus": 0} for name in ("encoder", "scope", "decoder")},
    }
    metrics = folder / "metrics"
    metrics.mkdir()
    application["runtime_env"] = {"env_vars": {"PROMETHEUS_MULTIPROC_DIR": str(metrics)}}
    # Two nodes of one machine cannot both have a proxy at one port.
    return {**config, "proxy_location": "Disabled"}


class Nodes:
    """The cluster of tests/ray_nodes.py."""

    def __init__(self, store: EmbeddedStore, folder: Path) -> None:
        env = quiet_environment(settings_of_the_cluster()) | {
            "LARIMAR_REDIS_URL": store.url,
            "OMP_NUM_THREADS": "1",
            # A lost node is noticed soon, and a slow machine has its time.
            "RAY_health_check_period_ms": "1000",
            "RAY_raylet_start_wait_time_s": "240",
        }
        command = [sys.executable, "-m", "tests.ray_nodes", "2", str(folder)]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(**env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._line() == "up"

    def tell(self, line: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self._line()

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        pids = family(self.process.pid)
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
        for pid in filter(alive, pids):
            subprocess.run(["kill", "-9", str(pid)], check=False)
        wait_gone(pids)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """Two nodes that serve, and where."""
    folder, port = tmp_path_factory.mktemp("nodes"), free_port()
    config = folder / "serve.yaml"
    config.write_text(yaml.safe_dump(serve_config(folder, port)))
    store = EmbeddedStore(folder / "store")
    (folder / "store").mkdir()
    store.start()
    # A socket of Ray's has its folder in its name, which has 100 bytes.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as short:
        running = Nodes(store, Path(short) / "r")
        try:
            assert running.tell(f"deploy {config}") == "RUNNING"
            yield running, f"127.0.0.1:{port}"
        finally:
            running.end()
            store.stop()


def wait_until(holds: Callable[[], bool], timeout_s: float = 90.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def pids_seen(target: str, wanted: int, timeout_s: float = 90.0) -> dict[str, set[int]]:
    """Processes that answered for each service, until each has as many, over many connections."""
    seen: dict[str, set[int]] = {name: set() for name in SERVICES}
    deadline = time.monotonic() + timeout_s
    while min(map(len, seen.values())) < wanted and time.monotonic() < deadline:
        with larimar.connect(target, timeout_s=30.0) as client:
            for _ in range(4):
                for one in client.status().services:
                    if one.ready:
                        seen[one.name].add(one.pid)
    return seen


def test_replicas_of_every_service_agree_and_a_lost_node_takes_nothing(nodes) -> None:
    cluster, target = nodes
    before = pids_seen(target, 2)
    assert {name: len(pids) for name, pids in before.items()} == dict.fromkeys(SERVICES, 2)

    traffic = Traffic(target, "kept")
    traffic.begin()
    with larimar.connect(target, timeout_s=60.0) as client:
        assert len({json.dumps(client.digest("kept").digest) for _ in range(20)}) == 1
    with traffic:
        traffic.wait(lambda: len(traffic.acknowledged) > 4 and len(traffic.answers) > 2)
        assert cluster.tell("kill 0") == "killed"
        edits, answers = len(traffic.acknowledged), len(traffic.answers)
        replicas = {pid for pids in before.values() for pid in pids}
        wait_until(lambda: not all(map(alive, replicas)))  # the lost node had some
        traffic.wait(
            lambda: len(traffic.acknowledged) > edits + 4 and len(traffic.answers) > answers + 2
        )
    assert not traffic.failed
    assert {error.reason for error in traffic.refused} <= {"SERVICE_DOWN", "UNAVAILABLE"}

    gone = {pid for pid in replicas if not alive(pid)}
    after = pids_seen(target, 2)
    assert {name: len(pids) for name, pids in after.items()} == dict.fromkeys(SERVICES, 2)
    assert not gone & {pid for pids in after.values() for pid in pids}
    with larimar.connect(target, timeout_s=60.0) as client:
        traffic.check_kept(client)
        traffic.check_answers()
        assert len({client.digest("kept").digest for _ in range(20)}) == 1
