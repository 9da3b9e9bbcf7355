"""`larimar write --file`: good lines are written, bad ones are named."""

from __future__ import annotations

import json
import re

import pytest
from command_line import on_a_terminal
from gateway_double import DoubleServer, GatewayDouble
from typer.testing import CliRunner

from larimar.cli import app
from larimar.cli.files import parse_line
from larimar.errors import InvalidArgument


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


def facts_file(tmp_path, *lines: str | bytes) -> str:
    path = tmp_path / "facts.jsonl"
    path.write_bytes(b"\n".join(ln if isinstance(ln, bytes) else ln.encode() for ln in lines))
    return str(path)


MIXED = (
    b'\xef\xbb\xbf{"prompt": "p1", "answer": "a", "id": "f1", "event_id": "e1"}\r',
    '{"prompt": "p2"}',
    "",
    b'{"prompt": "caf\xe9", "answer": "a"}',
    "not json",
    '{"prompt": "p6", "answer": "a", "rephrasings": ["r"], "id": "f6"}',
    '{"prompt": "p1", "answer": "a", "id": "f1", "event_id": "e1"}',
    '{"prompt": "p1", "answer": "other", "id": "f1", "event_id": "e1"}',
    '{"prompt": "", "answer": "a", "event_id": "e9"}',
    '{"prompt": "p10", "answer": "a"}',
)


def test_a_file_is_written_but_for_its_bad_lines(run, gateway, tmp_path):
    result = run("write", "--file", facts_file(tmp_path, *MIXED), "--bank", "default")
    assert result.exit_code == 1
    assert "written 3, duplicates 1, conflicts 1, failed 4" in result.stdout
    assert 'line 2: field "answer" is missing' in result.stderr
    assert "line 4: not UTF-8: byte 0xe9 at column 16" in result.stderr
    assert "line 5: not JSON" in result.stderr
    assert "line 8: event id 'e1' belongs to another edit" in result.stderr
    assert "line 9: prompt is empty" in result.stderr
    facts = gateway.banks["default"]["facts"]
    assert sorted(fact.prompt for fact in facts.values()) == ["p1", "p10", "p6"]
    assert list(facts["f6"].rephrasings) == ["r"]


def test_a_file_under_json_is_one_object_a_fact(run, tmp_path):
    result = run("write", "--file", facts_file(tmp_path, *MIXED), "--json")
    assert (result.exit_code, result.stderr) == (1, "")
    objects = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(objects) == 9
    failed = {one["line"]: one for one in objects if "error" in one}
    assert {line: one["error"]["code"] for line, one in failed.items()} == {
        2: "BAD_FACT",
        4: "NOT_UTF8",
        5: "NOT_JSON",
        8: "CONFLICT",
        9: "EMPTY_TEXT",
    }
    assert failed[9]["event_id"] == "e9"
    written = [one for one in objects if "error" not in one]
    assert all(list(one) == ["fact_id", "event_id", "version", "bank"] for one in written)
    assert [one["fact_id"] for one in written][:3] == ["f1", "f6", "f1"]


def test_a_good_file_is_exit_0(run, tmp_path):
    path = facts_file(tmp_path, *(f'{{"prompt": "p{n}", "answer": "a"}}' for n in range(300)))
    result = run("write", "--file", path)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "written 300, duplicates 0, conflicts 0, failed 0" in result.stdout


def test_facts_come_from_stdin_too(run):
    result = run("write", "--file", "-", "--json", stdin=b'{"prompt": "p", "answer": "a"}\n')
    assert (result.exit_code, json.loads(result.stdout)["version"]) == (0, 1)


def test_people_see_a_few_failures_and_programs_see_all(run, tmp_path):
    path = facts_file(tmp_path, *["bad"] * 50)
    shown = run("write", "--file", path).stderr.splitlines()
    assert len(shown) == 21
    assert "--json" in shown[-1]
    assert len(run("write", "--file", path, "--json").stdout.splitlines()) == 50


def test_a_terminal_shows_progress_with_rate_and_time_left(server, tmp_path):
    path = facts_file(tmp_path, *(f'{{"prompt": "p{n}", "answer": "a"}}' for n in range(40)))
    status, screen = on_a_terminal("write", "--file", path, LARIMAR_TARGET=server.target)
    assert status == 0
    assert re.search(r"40/40.*facts/s.*\d:\d\d", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'["p", "a"]', "not a JSON object"),
        (b'{"answer": "a"}', '"prompt" is missing'),
        (b'{"prompt": 1, "answer": "a"}', '"prompt" must be a text'),
        (b'{"prompt": "p", "answer": null}', '"answer" must be a text'),
        (b'{"prompt": "p", "answer": "a", "id": 7}', '"id" must be a text'),
        (b'{"prompt": "p", "answer": "a", "rephrasings": "r"}', '"rephrasings" must be a list'),
        (b'{"prompt": "p", "answer": "a", "rephrasings": [1]}', '"rephrasings" must be a list'),
        (b'{"prompt": "p", "answer": "a", "rephrase": []}', 'unknown field "rephrase"'),
        (b'{"prompt": "\\ud800", "answer": "a"}', "half a surrogate pair"),
        (b"[" * 100_000, "not JSON"),
        (b" " * (8 * 2**20 + 1), "longer than 8388608 bytes"),
    ],
)
def test_what_is_wrong_with_a_line_is_said(line, message):
    with pytest.raises(InvalidArgument) as caught:
        parse_line(line)
    assert message in caught.value.message


def test_a_huge_line_does_not_shift_the_numbers(run, tmp_path):
    path = facts_file(tmp_path, b"x" * (20 * 2**20), '{"prompt": "p"}')
    codes = [
        json.loads(line) for line in run("write", "--file", path, "--json").stdout.splitlines()
    ]
    assert [(one["line"], one["error"]["code"]) for one in codes] == [
        (1, "LINE_TOO_LONG"),
        (2, "BAD_FACT"),
    ]
