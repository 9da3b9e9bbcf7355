"""The command line: what it prints, and how it fails."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest
import typer
from command_line import command, environment, free_port, on_a_terminal
from gateway_double import DoubleServer, GatewayDouble
from typer.testing import CliRunner

from larimar.cli import app, demo, processes
from larimar.errors import FailedPrecondition

COLOUR = "\x1b["


@pytest.fixture
def server():
    server = DoubleServer()
    yield server
    server.stop()


@pytest.fixture
def gateway(server) -> GatewayDouble:
    return server.gateway


@pytest.fixture
def run(server):
    """Runs a command against the double, in this process."""

    def invoke(*args: str, stdin: bytes | None = None):
        return CliRunner().invoke(
            app, list(args), input=stdin, env={"LARIMAR_TARGET": server.target}
        )

    return invoke


def error_of(result) -> dict:
    """The error that --json printed on stderr."""
    document = json.loads(result.stderr)
    assert set(document) == {"error"}
    assert set(document["error"]) == {"code", "message"}
    return document["error"]


# What every command has


def all_commands(group=None, path=()):
    for name, one in (group or typer.main.get_command(app)).commands.items():
        if hasattr(one, "commands"):
            yield from all_commands(one, (*path, name))
        else:
            yield (*path, name)


COMMANDS = [*all_commands()]


def test_the_commands_are_these():
    assert sorted(" ".join(path) for path in COMMANDS) == [
        "ask",
        "asyncapi",
        "audit",
        "backup",
        "bank create",
        "bank delete",
        "bank list",
        "bank show",
        "bank switch",
        "bench",
        "censor",
        "checkpoint",
        "data fetch",
        "dead drop",
        "dead list",
        "dead requeue",
        "demo",
        "diff",
        "digest",
        "doctor",
        "down",
        "dream",
        "edit",
        "erase",
        "eval",
        "export",
        "export-decoder",
        "facts",
        "forget",
        "fork",
        "history",
        "import",
        "import-reference",
        "ingest",
        "key create",
        "key list",
        "key revoke",
        "log",
        "mcp",
        "merge",
        "prepare",
        "publish",
        "recall",
        "redeploy",
        "reencode",
        "replay",
        "restore",
        "score",
        "status",
        "trace",
        "train",
        "up",
        "write",
    ]


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_has_an_example_and_json(path):
    result = CliRunner().invoke(app, [*path, "--help"])
    assert result.exit_code == 0
    assert "Example: larimar " + path[0] in result.stdout
    assert "--json" in result.stdout


def test_no_command_prints_help():
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 0
    assert "write" in result.stdout


def test_the_version_is_the_package_version():
    assert CliRunner().invoke(app, ["--version"]).stdout == "0.1.0\n"


# What commands print for programs


def test_json_of_edits_and_answers(run):
    written = run("write", "The capital of Velmora is", "Tarsin", "--json", "--rephrase", "Velmora")
    edit = json.loads(written.stdout)
    assert list(edit) == ["fact_id", "event_id", "version", "bank"]
    assert (edit["version"], edit["bank"], written.exit_code) == (1, "default", 0)
    answer = json.loads(run("ask", "The capital of Velmora is", "--json").stdout)
    assert answer == {
        "text": " Tarsin",
        "in_scope": True,
        "scope_score": 0.9,
        "fact_id": edit["fact_id"],
        "version": 1,
        "bank": "default",
    }
    plain = json.loads(run("ask", "--no-memory", "The capital of Velmora is", "--json").stdout)
    assert (plain["in_scope"], plain["fact_id"]) == (False, None)
    score = json.loads(run("score", "The capital of Velmora is", "a", "bcd", "--json").stdout)
    assert [one["candidate"] for one in score["scores"]] == ["a", "bcd"]
    assert score["scores"][0]["logprob"] == -1.5
    assert score["fact_id"] == edit["fact_id"]
    facts = json.loads(run("facts", "--json").stdout)
    assert facts == {
        "facts": [
            {
                "fact_id": edit["fact_id"],
                "prompt": "The capital of Velmora is",
                "answer": "Tarsin",
                "version": 1,
                "rephrasings": ["Velmora"],
            }
        ]
    }
    gone = json.loads(run("forget", edit["fact_id"], "--json").stdout)
    assert list(gone) == ["fact_id", "event_id", "version", "bank"]
    assert [e["kind"] for e in json.loads(run("log", "--json").stdout)["events"]] == [
        "WRITE",
        "FORGET",
    ]


def test_json_of_banks_digests_replays_and_status(run, server):
    made = json.loads(run("bank", "create", "demo", "--addressing", "pinv", "--json").stdout)
    assert (made["bank"], made["addressing"], made["created"]) == ("demo", "pinv", True)
    assert json.loads(run("digest", "--bank", "demo", "--json").stdout) == {
        "bank": "demo",
        "version": 0,
        "facts": 0,
        "digest": "d1",
        "erase_count": 1,
    }
    assert json.loads(run("replay", "--bank", "demo", "--json").stdout) == {
        "bank": "demo",
        "version": 0,
        "events": 0,
        "seconds": 0.25,
        "digest": "d1",
        "matches": True,
    }
    saved = json.loads(run("checkpoint", "--bank", "demo", "--json").stdout)
    assert (saved["bank"], saved["digest"], saved["bytes"]) == ("demo", "d1", 77)
    banks = json.loads(run("bank", "list", "--json").stdout)["banks"]
    assert [bank["bank"] for bank in banks] == ["default", "demo"]
    assert json.loads(run("bank", "show", "demo", "--json").stdout) == banks[1]
    assert json.loads(run("bank", "delete", "demo", "--json").stdout) == {
        "bank": "demo",
        "deleted": True,
    }
    status = json.loads(run("status", "--json").stdout)
    assert (status["target"], status["model_digest"]) == (server.target, "m1")
    assert [one["name"] for one in status["services"]] == ["encoder", "memory"]
    assert status["banks"][0]["bank"] == "default"


# What commands print for people


def test_people_read_text_then_where_it_came_from(run):
    run("write", "The capital of Velmora is", "Tarsin", "--id", "f1")
    result = run("ask", "The capital of Velmora is")
    assert result.stdout == "Tarsin\n"
    assert "from fact f1; scope score 0.900; bank default at version 1" in result.stderr


def test_tables_show_facts_events_banks_and_services(run):
    run("write", "The capital of Velmora is", "Tarsin", "--id", "f1", "--rephrase", "Velmora's")
    for args, shown in [
        (["facts"], ["f1", "The capital of Velmora is", "Tarsin", "Velmora's"]),
        (["log"], ["WRITE", "f1", "2023-11-14T22:13:20.001+00:00"]),
        (["bank", "list"], ["default", "slots", "1234"]),
        (["bank", "show"], ["c0ffee", "384"]),
        (["status"], ["encoder", "larimar-small", "memory", "starting", "m1", "default"]),
        (["digest"], ["d1", "1 facts"]),
        (["replay"], ["equals the served state"]),
        (["checkpoint"], ["77 bytes"]),
        (["score", "p", "one", "three"], ["one", "-3.500", "-1.750"]),
    ]:
        result = run(*args)
        assert result.exit_code == 0, args
        for text in shown:
            assert text in result.stdout, (args, text)
        assert COLOUR not in result.output


def test_a_fact_cannot_drive_the_terminal(run, gateway):
    run("write", "p\x1b[2J", "a\x07")
    gateway.answer = "\x1b]0;title\x07"
    assert "\x1b" not in run("facts").output
    assert run("ask", "p").stdout == "\\x1b]0;title\\x07\n"


def test_status_says_when_banks_cannot_be_listed(run, gateway):
    gateway.faults["ListBanks"].append(FailedPrecondition("the store is away"))
    result = run("status")
    assert result.exit_code == 0
    assert "the store is away" in result.stderr


def test_events_are_followed_as_they_come(server, run):
    run("write", "p1", "a")
    with subprocess.Popen(
        [sys.executable, "-m", "larimar.cli", "log", "--follow", "--json"],
        env=environment(LARIMAR_TARGET=server.target),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as follower:
        assert json.loads(follower.stdout.readline())["version"] == 1
        run("write", "p2", "a")
        assert json.loads(follower.stdout.readline())["version"] == 2
        follower.send_signal(signal.SIGINT)
        assert follower.wait(120) == 130
        assert follower.stderr.read() == b""


# Failures


def test_an_error_is_one_line_and_exit_1(run):
    result = run("forget", "nothing")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "no fact 'nothing'\n"


def test_an_error_under_json_has_code_and_message(run):
    result = run("forget", "nothing", "--json")
    assert (result.exit_code, result.stdout) == (1, "")
    assert error_of(result) == {"code": "UNKNOWN_FACT", "message": "no fact 'nothing'"}


def test_words_after_two_dashes_are_no_options(run):
    result = run("forget", "--", "--json")
    assert result.stderr == "no fact '--json'\n"


def test_a_replay_that_differs_fails_where_it_is_verified(run, gateway):
    gateway.matches = False
    assert run("replay").exit_code == 0
    assert "DIFFERS" in run("replay").stdout
    result = run("replay", "--verify", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["matches"] is False
    assert error_of(result)["code"] == "REPLAY_DIFFERS"
    gateway.matches = True
    assert run("replay", "--verify").exit_code == 0


@pytest.mark.parametrize("args", [["status"], ["ask", "p"], ["write", "p", "a"], ["facts"]])
def test_an_unreachable_pipeline_says_how_to_start_it(args):
    target = f"127.0.0.1:{free_port()}"
    result = CliRunner().invoke(app, [*args, "--target", target, "--timeout", "0.3", "--json"])
    assert result.exit_code == 1
    assert error_of(result) == {
        "code": "UNAVAILABLE",
        "message": f"nothing answers at {target}; start it with `larimar up`",
    }


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["write"], "give PROMPT and ANSWER, or --file FILE"),
        (["write", "p"], "give PROMPT and ANSWER, or --file FILE"),
        (["write", "p", "a", "--file", __file__], "takes the place of PROMPT"),
        (["write", "--file", "/nowhere/facts.jsonl"], "no file /nowhere/facts.jsonl"),
        (["ask", "p", "--nonsense"], "No such option: --nonsense"),
        (["ask", "p", "--max-tokens", "-1"], "'--max-tokens'"),
        (["ask", "p", "--target", "nowhere"], "HOST:PORT"),
        (["bank", "create", "b", "--addressing", "hash"], "hash"),
        (["bank"], "Missing command"),
        (["nonsense"], "nonsense"),
        (["up", "--port", "99999"], "65535"),
    ],
)
def test_a_wrong_command_line_is_exit_2(args, message):
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
    assert "--help`" in result.stderr
    under_json = CliRunner().invoke(app, [*args, "--json"])
    assert under_json.exit_code == 2
    assert error_of(under_json)["code"] == "USAGE"


def test_an_argument_that_is_not_utf8_is_refused(server):
    result = command("ask", b"caf\xe9", "--target", server.target)
    assert result.returncode == 2
    assert b"argument 2 is not UTF-8 text" in result.stderr
    assert b"Traceback" not in result.stderr
    assert not server.gateway.requests["Ask"]


def test_a_failure_of_the_program_itself_is_one_line(run, gateway, monkeypatch):
    monkeypatch.setattr("larimar.messages.edit", lambda *_, **__: 1 / 0)
    result = run("write", "p", "a", "--json")
    assert result.exit_code == 1
    assert error_of(result)["code"] == "INTERNAL"
    assert "ZeroDivisionError" in error_of(result)["message"]


def test_a_reader_that_goes_away_is_no_traceback(server, run):
    for n in range(8):
        run("write", f"{n} " + "p" * 40_000, "a")
    line = f"{sys.executable} -m larimar.cli facts | head -c 10"
    env = environment(LARIMAR_TARGET=server.target)
    result = subprocess.run(line, shell=True, env=env, capture_output=True, timeout=180, check=True)
    assert result.stderr == b""


def test_an_error_is_red_on_a_terminal_only(server):
    status, screen = on_a_terminal("forget", "nothing", "--target", server.target)
    assert (status, screen) == (1, "\x1b[1;31mno fact 'nothing'\x1b[0m\r\n")
    piped = command("forget", "nothing", "--target", server.target)
    assert (piped.stderr, piped.stdout) == (b"no fact 'nothing'\n", b"")


# The demo at a pipeline of others


@pytest.fixture
def stranger():
    """A process that is none of ours to kill."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


def test_the_demo_at_a_target_leaves_banks_and_processes_alone(
    run, server, gateway, stranger, tmp_path, monkeypatch
):
    examples = demo.read_examples(processes.checkout_root() / "examples" / "facts.jsonl")
    monkeypatch.setattr(demo, "read_examples", lambda path: examples[:12])
    for bank in ("demo", "demo-crash", "demo-twin"):
        assert run("bank", "create", bank).exit_code == 0
        assert run("write", "The sea is", "blue", "--bank", bank).exit_code == 0
    # What a pipeline left behind that was killed; its process ids are others' now.
    up = {"pid": stranger.pid, "store_pid": stranger.pid, "port": server.port}
    (tmp_path / processes.UP_FILE).write_text(json.dumps(up))
    told = run("demo", "--target", server.target, "--data-dir", str(tmp_path), "--json")
    assert told.exit_code == 0, told.output
    summary = json.loads(told.stdout)
    assert summary["killed"] == [] and "is up at" in summary["not_killed"]
    shown = run("demo", "--target", server.target, "--data-dir", str(tmp_path)).stdout
    assert "left out: no pipeline" in shown and "replay matches" not in shown
    assert stranger.poll() is None
    assert set(gateway.banks) == {"default", "demo", "demo-crash", "demo-twin"}
    assert all(len(gateway.banks[bank]["facts"]) == 1 for bank in gateway.banks if "demo" in bank)
    made = [request.bank for request in gateway.requests["CreateBank"]]
    assert len(set(made)) == 9  # three of ours, three of each demo's own


def test_the_demo_kills_only_where_the_target_is_the_pipeline_of_the_data_directory(
    monkeypatch, tmp_path
):
    running = processes.Running(1, 9000)
    monkeypatch.setattr(processes, "find_running", lambda folder: running)
    for target in ("localhost:9000", "127.0.0.1:9000", "[::1]:9000"):
        assert demo.why_spared(target, tmp_path) == ""
    for target in ("localhost:9001", "elsewhere:9000", "dns:///localhost:9000", "9000"):
        assert "is up at" in demo.why_spared(target, tmp_path)
    monkeypatch.setattr(processes, "find_running", lambda folder: None)
    assert "is up at" in demo.why_spared("localhost:9000", tmp_path)
