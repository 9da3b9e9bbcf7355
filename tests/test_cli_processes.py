"""`larimar up`, `down`, `train`, `eval`, `bench`: the processes that the command line starts.

The supervisor here is a stand-in with the manners of services/up.py.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from command_line import ROOT, command, environment, free_port

from larimar.cli import processes
from larimar.errors import Conflict

STAND_IN = f"""
import argparse, json, os, pathlib, signal, sys, threading
sys.path.append({str(ROOT)!r})
parser = argparse.ArgumentParser()
parser.add_argument("--data-dir")
parser.add_argument("--port", type=int)
parser.add_argument("--http-port", type=int)
parser.add_argument("--redis-url")
parser.add_argument("--model")
parser.add_argument("--no-ray", action="store_true")
parser.add_argument("--require-keys", action="store_true")
for name in ("cert", "key", "client-ca"):
    parser.add_argument(f"--tls-{{name}}")
asked = parser.parse_args()
data = pathlib.Path(asked.data_dir)
print("starting", file=sys.stderr, flush=True)
(data / "lock").write_text(f"pid {{os.getpid()}} (its store server: pid 1)")
if asked.model == "missing":
    print("error: no model folder at missing", file=sys.stderr, flush=True)
    sys.exit(1)
from tests.gateway_double import DoubleServer
ended = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: ended.set())
server = DoubleServer(asked.port)
up = data / "up.json"
(data / "asked.json").write_text(json.dumps(vars(asked)))
facts = {{"pid": os.getpid(), "port": asked.port, "started_at": 0, "mode": "x"}}
up.write_text(json.dumps({{**facts, "guarded": asked.require_keys}}))
print("ready", file=sys.stderr, flush=True)
ended.wait()
up.unlink()
server.stop()
"""

CHILD = """
import json, os, sys
print(json.dumps({"args": sys.argv[1:], "cwd": os.getcwd()}))
sys.exit(7)
"""


@pytest.fixture
def checkout(tmp_path):
    """A checkout with stand-ins for the applications."""
    root = tmp_path / "checkout"
    shutil.copytree(
        ROOT / "larimar", root / "larimar", ignore=shutil.ignore_patterns("__pycache__")
    )
    for path, text in {
        "services/app.py": "",
        "services/up.py": STAND_IN,
        "training/__main__.py": CHILD,
        "evaluation/__main__.py": CHILD,
        "benchmarks/__main__.py": CHILD,
        "services/gateway/asyncapi.py": CHILD,
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(textwrap.dedent(text))
    work = tmp_path / "work"
    work.mkdir()
    return {"cwd": work, "env": environment(PYTHONPATH=str(root)), "text": True}


def test_a_pipeline_is_started_found_and_stopped(checkout, tmp_path):
    port, work = free_port(), checkout["cwd"]
    more = ["--model", "some-name", "--no-ray", "--redis-url", "redis://x", "--require-keys"]
    (work / "c.pem").touch()
    more += ["--tls-cert", "c.pem", "--tls-key", "c.pem"]
    started = command("up", "--detach", "--port", str(port), *more, "--json", **checkout)
    assert started.returncode == 0, started.stderr
    up = json.loads(started.stdout)
    assert (up["port"], up["data_dir"]) == (port, str(work / ".larimar"))
    try:
        asked = json.loads((work / ".larimar" / "asked.json").read_text())
        assert asked == {
            "data_dir": str(work / ".larimar"),
            "port": port,
            "http_port": 8000,
            "redis_url": "redis://x",
            "model": "some-name",
            "no_ray": True,
            "require_keys": True,
            "tls_cert": str(work / "c.pem"),
            "tls_key": str(work / "c.pem"),
            "tls_client_ca": None,
        }
        assert "ready" in (work / ".larimar" / "up.log").read_text()
        target = ["--target", f"localhost:{port}"]
        assert command("status", *target, **checkout).returncode == 0
        second = command("up", "--detach", "--port", str(free_port()), **checkout)
        assert second.returncode == 1
        assert second.stderr == (
            f"already up: pid {up['pid']}, port {port} (data dir {work / '.larimar'})\n"
        )
        assert command("status", *target, **checkout).returncode == 0
    finally:
        stopped = command("down", **checkout)
    assert (stopped.returncode, stopped.stderr) == (0, "")
    assert f"pid {up['pid']} stopped" in stopped.stdout
    assert not (work / ".larimar" / "up.json").exists()
    again = command("down", "--json", **checkout)
    assert (again.returncode, json.loads(again.stdout)["stopped"]) == (0, False)


@pytest.mark.parametrize(
    ("up", "wanted"),
    [
        ({"guarded": True}, []),
        ({}, ["localhost:1"]),
        ({"host": "0.0.0.0"}, ["localhost:1"]),
        ({"host": "10.0.0.5"}, ["10.0.0.5:1"]),
    ],
)
def test_a_port_is_asked_where_it_listens_and_a_guarded_one_not_at_all(tmp_path, up, wanted):
    """Who starts a pipeline has no key to it: what the child has written is enough."""
    code = (
        "import json, os, pathlib, sys, time; folder = pathlib.Path(sys.argv[2]);"
        "up = {'pid': os.getpid(), 'port': 1, **json.loads(sys.argv[3])};"
        "(folder / 'up.json').write_text(json.dumps(up)); time.sleep(600)"
    )
    log = tmp_path / "log"
    log.touch()
    asked: list[str] = []

    def answers(target: str) -> bool:
        asked.append(target)
        return True

    where = [sys.executable, "-c", code, "services.up", str(tmp_path), json.dumps(up)]
    with subprocess.Popen(where) as child:
        running = processes.wait_until_up(child, tmp_path, log, 0, answers, threading.Event())
        child.kill()
    assert running is not None and running.guarded == up.get("guarded", False)
    assert asked == wanted


def test_a_pipeline_that_cannot_start_says_why(checkout):
    port = str(free_port())
    result = command("up", "--detach", "--port", port, "--model", "missing", "--json", **checkout)
    assert (result.returncode, result.stdout) == (1, "")
    assert json.loads(result.stderr)["error"] == {
        "code": "START_FAILED",
        "message": "the pipeline did not start: no model folder at missing",
    }
    shown = command("up", "--port", port, "--model", "missing", **checkout)
    assert shown.returncode == 1
    assert shown.stderr.endswith("error: no model folder at missing\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_pipeline_in_the_foreground_ends_in_order(checkout, number):
    port = free_port()
    with subprocess.Popen(
        [sys.executable, "-m", "larimar.cli", "up", "--port", str(port), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **checkout,
    ) as child:
        up = json.loads(child.stdout.readline())
        child.send_signal(number)
        assert child.wait(120) == 0
        assert child.stderr.read() == ""
    assert not (checkout["cwd"] / ".larimar" / "up.json").exists()
    assert not Path(f"/proc/{up['pid']}").exists()


def test_a_start_that_is_interrupted_leaves_nothing_running(checkout):
    data_dir = checkout["cwd"] / ".larimar"
    (checkout["cwd"].parent / "checkout" / "services" / "up.py").write_text(
        "import os, pathlib, sys, time\n"
        "(pathlib.Path(sys.argv[2]) / 'lock').write_text(f'pid {os.getpid()}')\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-m", "larimar.cli", "up", "--detach"], stdout=subprocess.PIPE, **checkout
    ) as child:
        deadline = time.monotonic() + 120
        while not processes.find_running(data_dir) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert processes.find_running(data_dir)
        child.send_signal(signal.SIGINT)
        assert child.wait(120) == 130
    assert processes.find_running(data_dir) is None


def test_a_pid_that_was_used_again_is_not_taken_for_a_pipeline(tmp_path):
    (tmp_path / "up.json").write_text(json.dumps({"pid": os.getpid(), "port": 9000}))
    (tmp_path / "lock").write_text(f"pid {os.getpid()}")
    assert processes.find_running(tmp_path) is None
    (tmp_path / "up.json").write_text("half a docu")
    assert processes.find_running(tmp_path) is None


def test_a_pipeline_that_is_starting_is_known_by_its_lock(tmp_path):
    sleeper = [sys.executable, "-c", "import time; time.sleep(600)", "services.up"]
    with subprocess.Popen(sleeper) as child:
        (tmp_path / "lock").write_text(f"pid {child.pid} (its store server: pid 1)")
        with pytest.raises(Conflict, match=f"pid {child.pid}, still starting"):
            processes.refuse_second(tmp_path)
        assert processes.stop(processes.Running(child.pid, None)) is True
    assert processes.find_running(tmp_path) is None


def test_a_pipeline_that_does_not_end_is_killed_with_its_group(monkeypatch, tmp_path):
    monkeypatch.setattr(processes, "STOP_TIMEOUT_S", 0.5)
    stubborn = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
        "print(child.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", stubborn, "services.up"], stdout=subprocess.PIPE, process_group=0
    ) as child:
        helper = int(child.stdout.readline())
        assert processes.stop(processes.Running(child.pid, None)) is False
    deadline = time.monotonic() + 120
    while b"sleep" in cmdline(helper) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert cmdline(helper) == b""


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize("name", ["train", "eval", "bench", "asyncapi"])
def test_what_needs_the_checkout_gets_all_arguments_and_gives_its_status(checkout, name):
    result = command(name, "recipe", "--json", "--help", "-x", "1", **checkout)
    assert result.returncode == 7
    shown = json.loads(result.stdout)
    assert shown["args"] == ["recipe", "--json", "--help", "-x", "1"]
    assert shown["cwd"] == str(checkout["cwd"])


@pytest.mark.parametrize("name", ["up", "train", "eval", "bench"])
def test_without_a_checkout_it_is_said(tmp_path, name):
    shutil.copytree(ROOT / "larimar", tmp_path / "larimar")
    env = environment(PYTHONPATH=str(tmp_path))
    result = command(name, "--json", env=env, cwd=tmp_path, text=True)
    assert result.returncode == 1
    error = json.loads(result.stderr)["error"]
    assert error["code"] == "NO_CHECKOUT"
    assert "needs a checkout" in error["message"]
