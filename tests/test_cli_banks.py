"""Commands on whole banks: censor, edit, erase, history, fork, merge, diff, export, import."""

from __future__ import annotations

import json
import re

import pytest
from command_line import on_a_terminal
from gateway_double import DoubleServer, GatewayDouble
from typer.testing import CliRunner

from larimar.archive import Archive
from larimar.cli import app


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


def shown(result) -> dict:
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def error_code(result) -> str:
    assert result.exit_code == 1
    return json.loads(result.stderr)["error"]["code"]


# Edits


def test_a_prompt_is_censored(run, gateway):
    made = shown(run("censor", "The password is", "--rephrase", "Its password", "--json"))
    assert list(made) == ["fact_id", "event_id", "version", "bank"]
    assert gateway.banks["default"]["facts"][made["fact_id"]].answer == "unknown"
    assert "censored: fact" in run("censor", "Another").stdout
    assert shown(run("censor", "p", "--id", "f1", "--json"))["fact_id"] == "f1"
    assert gateway.banks["default"]["facts"]["f1"].answer == "unknown"


def test_a_write_says_which_version_it_expects(run, gateway):
    run("write", "p", "a", "--expected-version", "0")
    (request,) = gateway.requests["Write"]
    assert request.HasField("expected_version") and request.expected_version == 0
    assert run("write", "--file", "-", "--expected-version", "0", stdin=b"").exit_code == 2


EDITS = (
    b'{"write": {"prompt": "p", "answer": "a", "id": "f1", "event_id": "e1"}}\n'
    b'{"forget": {"fact_id": "f1"}}\n'
    b'{"censor": {"prompt": "secret"}}\n'
)


def test_a_file_of_edits_is_one_batch(run, gateway, tmp_path):
    path = tmp_path / "edits.jsonl"
    path.write_bytes(EDITS)
    results = shown(run("edit", "--file", str(path), "--json"))["results"]
    assert [one["version"] for one in results] == [1, 2, 3]
    assert results[0]["event_id"] == "e1"
    assert len(gateway.requests["Edit"]) == 1
    again = run("edit", "--file", "-", stdin=EDITS)
    assert "it had been made before" in again.stdout


def test_an_edit_that_is_refused_is_shown_and_exit_1(run):
    lines = b'{"forget": {"fact_id": "nothing"}}\n{"censor": {"prompt": "p"}}'
    result = run("edit", "--file", "-", "--json", stdin=lines)
    refused, made = json.loads(result.stdout)["results"]
    assert (result.exit_code, refused["error"]["code"], made["version"]) == (1, "UNKNOWN_FACT", 1)
    assert "refused: no fact 'nothing'" in run("edit", "--file", "-", stdin=lines).stdout


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        (b"not json", "NOT_JSON", "line 2: not JSON"),
        (b"\xff", "NOT_UTF8", "line 2: not UTF-8"),
        (b"[]", "INVALID_ARGUMENT", "line 2: an edit is"),
        (b'{"forget": {"prompt": "p"}}', "INVALID_ARGUMENT", "line 2: forget has no field"),
        (b'{"write": {"prompt": "p"}}', "INVALID_ARGUMENT", "line 2: a fact needs a field"),
        (b'{"write": {"prompt": "\\ud800", "answer": "a"}}', "INVALID_ARGUMENT", "line 2: prompt"),
    ],
)
def test_a_malformed_line_stops_the_whole_batch(run, gateway, line, code, message):
    result = run("edit", "--file", "-", "--json", stdin=EDITS.split(b"\n")[0] + b"\n" + line)
    assert error_code(result) == code
    assert message in json.loads(result.stderr)["error"]["message"]
    assert not gateway.requests["Edit"]


def test_a_file_of_edits_must_be_there(run):
    assert run("edit", "--file", "/nowhere/edits.jsonl").exit_code == 2
    assert run("edit").exit_code == 2


# Erasure


def test_an_erasure_prints_its_receipt(run, gateway):
    run("write", "p", "a", "--id", "f1")
    receipt = shown(run("erase", "f1", "--event-id", "e1", "--json"))
    assert (receipt["done"], receipt["step"], receipt["event_id"]) == (True, "DONE", "e1")
    assert (receipt["scan"]["found"], receipt["scan"]["found_before"]) == (0, 3)
    assert receipt["banks"][0]["replay_matches"] is True
    table = run("erase", "--receipt", "e1").stdout
    for text in ("DONE", "9 keys, 2 files, 4096 bytes", "found before", "sha256 fff", "equal"):
        assert text in table


def test_an_erasure_is_not_waited_for_where_that_is_asked(run, gateway):
    run("write", "p", "a", "--id", "f1")
    result = run("erase", "f1", "--no-wait", "--event-id", "e1")
    assert result.exit_code == 0
    assert "APPENDED (goes on)" in result.stdout and "not yet compared" in result.stdout
    assert "larimar erase --receipt e1 --bank default" in result.stderr
    assert not gateway.requests["GetErase"]


def test_an_erasure_that_left_something_behind_fails(run, gateway):
    run("write", "p", "a", "--id", "f1")
    gateway.left_behind = 1
    result = run("erase", "f1", "--json")
    assert json.loads(result.stdout)["scan"]["found"] == 1
    assert error_code(result) == "ERASE_INCOMPLETE"


def test_an_erasure_whose_replay_differs_fails(run, gateway):
    run("write", "p", "a", "--id", "f1")
    gateway.replay_after_erasure = False
    result = run("erase", "f1")
    assert result.exit_code == 1 and "DIFFERS" in result.stdout
    assert "is not complete" in result.stderr


def test_a_terminal_shows_the_steps_of_an_erasure(server, run):
    run("write", "p", "a", "--id", "f1")
    status, screen = on_a_terminal("erase", "f1", LARIMAR_TARGET=server.target)
    assert status == 0
    assert re.search(r"erasing.*5/5", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen))


@pytest.mark.parametrize("args", [[], ["f1", "--receipt", "e1"]])
def test_facts_or_a_receipt_are_named(run, args):
    assert run("erase", *args).exit_code == 2


def test_the_history_of_a_fact(run):
    run("write", "p", "a", "--id", "f1")
    run("forget", "f1")
    events = shown(run("history", "f1", "--json"))["events"]
    assert [(one["version"], one["kind"]) for one in events] == [(2, "FORGET"), (1, "WRITE")]
    assert "FORGET" in run("history", "f1").stdout
    assert error_code(run("history", "nothing", "--json")) == "UNKNOWN_FACT"


# Past versions


def test_past_versions_are_asked_for(run, gateway):
    run("write", "p", "a")
    answer = shown(
        run(
            "ask",
            "p",
            "--at",
            "1",
            "--noise",
            "0.5",
            "--noise-seed",
            "3",
            "--allow-stale",
            "--json",
        )
    )
    assert answer["stale"] is True
    assert "stale" not in shown(run("ask", "p", "--json"))
    assert "STALE" in run("ask", "p", "--allow-stale").stderr
    score = shown(run("score", "p", "a", "--at", "1", "--allow-stale", "--json"))
    assert score["stale"] is True
    run("facts", "--at", "1")
    assert shown(run("digest", "--at", "1", "--json"))["version"] == 1
    sent = gateway.requests
    assert (sent["Ask"][0].at_version, sent["Ask"][0].noise, sent["Ask"][0].noise_seed) == (
        1,
        0.5,
        3,
    )
    assert [sent[name][0].at_version for name in ("Score", "ListFacts", "Digest")] == [1, 1, 1]


# Forks


def test_a_fork_is_made_and_shown_with_its_origin(run):
    run("write", "p", "a")
    made = shown(run("fork", "default", "copy", "--at", "1", "--json"))
    assert (made["bank"], made["version"], made["created"]) == ("copy", 1, True)
    assert made["origin"] == {"bank": "default", "version": 1, "chain": "c"}
    table = run("bank", "show", "copy").stdout
    assert "default at version 1" in table and "erase count" in table
    assert "a slots bank grows" in table
    assert (
        "bank other made: default as of version 1, 1 facts"
        in run("fork", "default", "other").stdout
    )
    assert error_code(run("fork", "default", "copy", "--json")) == "BANK_EXISTS"


def test_the_fill_of_a_bank_of_fixed_size_is_shown(run, gateway):
    info = gateway._info

    def fixed(name):
        made = info(name)
        made.config.slots = 16
        return made

    gateway._info = fixed
    assert "0.250 (N/K, 4 of 16)" in run("bank", "show").stdout


def test_a_merge_tells_what_it_did(run, gateway):
    gateway.conflicts = 2
    result = shown(run("merge", "copy", "default", "--policy", "ours", "--dry-run", "--json"))
    assert (result["written"], result["conflict_count"], result["dry_run"]) == (4, 2, True)
    assert result["conflicts"][0]["fact_id"] == "f1"
    told = run("merge", "copy", "default", "--policy", "theirs")
    assert "copy into default: wrote 4, forgot 1, 2 conflicts (theirs)" in told.stdout
    assert "in copy" in told.stdout and "changed meanwhile: f9" in told.stderr
    assert [one.policy for one in gateway.requests["MergeBank"]] == [2, 3]
    assert run("merge", "copy", "default", "--policy", "mine").exit_code == 2


def test_differences_are_listed(run, gateway):
    result = shown(run("diff", "default", "1", "2", "--to-bank", "copy", "--json"))
    assert [result[name] for name in ("added", "removed", "changed")] == [1, 1, 1]
    assert [one["kind"] for one in result["changes"]] == ["ADDED", "CHANGED", "REMOVED"]
    assert (result["from_version"], result["to_version"], result["to_bank"]) == (1, 2, "copy")
    assert result["changes"][1]["before"]["answer"] == "old"
    told = run("diff", "default", "1").stdout
    assert "old (version 1)" in told and "1 added, 1 removed, 1 changed" in told
    assert run("diff", "default", "-1").exit_code == 2


# Archives


def test_a_bank_is_exported_and_imported(run, gateway, tmp_path):
    folder = str(tmp_path / "out")
    made = shown(run("export", "archived", folder, "--json"))
    assert (made["bank"], made["version"], made["files"]) == ("archived", 7, 3)
    assert Archive(folder).header.version == 7
    assert error_code(run("export", "archived", folder, "--json")) == "ARCHIVE_EXISTS"
    again = shown(run("import", folder, "--bank", "again", "--json"))
    assert (again["bank"], again["version"], again["erased_again"]) == ("again", 7, 2)
    assert again["digest"] == "d" * 64
    assert "bank archived made" in run("import", folder).stdout
    assert "7, 3 files" in run("export", "archived", folder + "2").stdout


def test_an_archive_that_was_touched_is_refused(run, gateway, tmp_path):
    folder = tmp_path / "out"
    run("export", "archived", str(folder))
    (folder / "events.jsonl").write_bytes(b"")
    result = run("import", str(folder), "--json")
    assert error_code(result) == "BAD_ARCHIVE"
    assert "events.jsonl" in json.loads(result.stderr)["error"]["message"]
    assert error_code(run("import", str(tmp_path), "--json")) == "NO_ARCHIVE"
    assert not gateway.imported


def test_a_terminal_shows_how_far_an_export_is(server, tmp_path):
    status, screen = on_a_terminal(
        "export", "archived", str(tmp_path / "out"), LARIMAR_TARGET=server.target
    )
    assert status == 0
    assert re.search(r"exporting archived.*7/7", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen))
