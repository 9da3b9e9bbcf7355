"""The OpenAPI document against the interface it describes, by schemathesis, for a bounded time."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator

import httpx2 as httpx
import pytest

from tests.command_line import ROOT, environment
from tests.served_http import ServedHttp

BANK = "fuzzed"
"""The bank that tests/schemathesis.toml names."""
SECONDS = 10
"""For each phase: a quick machine goes through all operations, a slow one through the first."""


@pytest.fixture(scope="module")
def served(weights) -> Iterator[ServedHttp]:
    with ServedHttp(weights) as running:
        assert httpx.post(f"{running.url}/v1/banks", json={"bank": BANK}).status_code == 200
        yield running


@pytest.mark.timeout(600)
@pytest.mark.parametrize("phase", ["coverage", "fuzzing"])
def test_requests_made_of_the_document_are_answered_as_it_says(served, phase) -> None:
    command = [sys.executable, "-m", "schemathesis.cli"]
    command += ["--config-file", str(ROOT / "tests" / "schemathesis.toml"), "run"]
    command += [f"{served.url}/openapi.json", "--phases", phase, "--max-time", str(SECONDS)]
    command += ["--exclude-operation-id", "delete_bank"]  # the other operations need it
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    tested = re.search(r"Tested: (\d+)", done.stdout)
    assert tested and int(tested[1]) >= 1, done.stdout
