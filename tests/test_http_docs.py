"""docs/http.md: its examples run in their order, and its tables are those of the code."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest

from services.gateway.auth import METHOD_SCOPES
from services.gateway.http import errors
from tests.command_line import ROOT
from tests.document_checks import cells
from tests.served_http import ServedHttp
from tests.test_docs import executed

TEXT = (ROOT / "docs" / "http.md").read_text(encoding="utf-8")
OPTIONS = ("--silent", "--show-error", "--fail-with-body")
ENDED_BY_TIME = 28
"""Exit status of curl where `--max-time` ended a stream."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


COMMANDS = [line for block in blocks("shell") for line in block.splitlines()]


@pytest.fixture(scope="module")
def served(weights) -> Iterator[ServedHttp]:
    with ServedHttp(weights) as running:
        yield running


@pytest.fixture(scope="module")
def operations(served: ServedHttp) -> dict[tuple[str, str], dict]:
    """What the OpenAPI document says of each method and path."""
    paths = httpx.get(f"{served.url}/openapi.json", timeout=60.0).json()["paths"]
    return {
        (method.upper(), path): operation
        for path, item in paths.items()
        for method, operation in item.items()
    }


def asked(command: str) -> tuple[str, str]:
    """Method and path of a curl command."""
    words = shlex.split(command)
    assert words[0] == "curl"
    posts = {"--json", "-d"} & set(words)
    method = words[words.index("-X") + 1] if "-X" in words else "POST" if posts else "GET"
    (url,) = [word for word in words if word.startswith("localhost:8000")]
    return method, url.removeprefix("localhost:8000").partition("?")[0]


@pytest.mark.skipif(shutil.which("curl") is None, reason="the examples are commands of curl")
@pytest.mark.timeout(600)
def test_the_examples_run_in_their_order(served: ServedHttp, tmp_path: Path) -> None:
    said = {}
    for command in COMMANDS:
        local = command.replace("localhost:8000", f"localhost:{served.port}")
        words = shlex.split(local)
        done = subprocess.run(
            [words[0], *OPTIONS, *words[1:]], capture_output=True, text=True, timeout=180,
            cwd=tmp_path, check=False,
        )  # fmt: skip
        streams = "--max-time" in command
        assert done.returncode in ((0, ENDED_BY_TIME) if streams else (0,)), (
            f"{command}: {done.stdout}{done.stderr}"
        )
        said[asked(command)] = done.stdout
    assert said["GET", "/v1/banks/demo/events/stream"].startswith("id: 1\n")
    assert json.loads(said["POST", "/v1/banks/demo/replay"])["matches"]
    assert json.loads(said["GET", "/v1/models/larimar/demo"])["id"] == "larimar/demo"
    (batch,) = json.loads(said["POST", "/v1/events"])["results"]
    assert batch["status"] is None
    (block,) = blocks("python")
    held = executed(block.replace("localhost:8000", f"localhost:{served.port}"))
    assert held["answer"].larimar["bank"] == "demo"


def test_every_route_has_an_example(operations) -> None:
    shown = {asked(command) for command in COMMANDS} - {("GET", "/openapi.json")}
    for method, path in operations:
        pattern = re.sub(r"\\{\w+\\}", "[^?]+", re.escape(path))
        found = {one for one in shown if one[0] == method and re.fullmatch(pattern, one[1])}
        assert found, f"{method} {path} has no example"


def test_the_routes_and_their_scopes_are_those_of_the_code(operations) -> None:
    rows = {tuple(row[0].strip("`").split(" ")): row[1] for row in cells(TEXT, "Routes")}
    scopes = {
        route: METHOD_SCOPES[operation["x-larimar-method"]]
        if "x-larimar-method" in operation
        else "-"
        for route, operation in operations.items()
    }
    assert rows == scopes


def test_the_statuses_are_those_of_the_code() -> None:
    rows = {row[0]: int(row[1]) for row in cells(TEXT, "Errors")}
    internal = {"internal": 500, "data_loss": 500}
    assert rows == {**errors._STATUSES, **internal}
    for reason, status in errors._STATUSES_BY_REASON.items():
        assert f"{reason} {status}" in TEXT
