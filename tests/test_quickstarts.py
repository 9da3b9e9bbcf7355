"""The quickstarts: every command and every block of Python in them runs, in their order."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command_line import ROOT, environment, free_port
from tests.pipelines import larimar

FOLDER = ROOT / "docs" / "quickstart"
_BLOCK = re.compile(r"^```(shell|python)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_FILES = {"cp", "mv"}


class Reader:
    """Somebody who types what a quickstart says, in one folder; a pipeline that is up stays up."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.up = False

    def follow(self, name: str, last: bool = False) -> tuple[dict[str, str], dict]:
        """What each command said, and the names that the Python left behind.

        Args:
            last: the pipeline goes down where the document says so for the last time.
        """
        said: dict[str, str] = {}
        names: dict = {}
        blocks = _BLOCK.findall((FOLDER / name).read_text(encoding="utf-8"))
        lines = [(kind, text) for kind, text in blocks]
        assert lines[0][1].startswith(". .venv/bin/activate\nlarimar up --detach\n")
        for place, (kind, text) in enumerate(lines):
            if kind == "python":
                exec(compile(text.replace(":9000", f":{self.port}"), name, "exec"), names)
                continue
            final = place == len(lines) - 1 and not last
            for line in text.splitlines():
                skipped = line.startswith(". ") or (final and line == "larimar down")
                if not skipped:
                    said[line] = said.get(line, "") + self.type(line)
        return said, names

    def type(self, line: str) -> str:
        """What a command says."""
        program, *words = shlex.split(line)
        assert program == "larimar" or program in _FILES, line
        if program in _FILES:
            subprocess.run([program, *words], cwd=self.folder, check=True)
            return ""
        if words[0] == "up":
            if self.up:
                return ""
            words += ["--no-ray", "--port", str(self.port)]
        self.up = (self.up or words[0] == "up") and words[0] != "down"
        done = subprocess.run(
            [sys.executable, "-m", "larimar.cli", *words],
            cwd=self.folder,
            env=environment(LARIMAR_TARGET=f"localhost:{self.port}"),
            capture_output=True,
            text=True,
            timeout=420,
            check=False,
        )
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    folder = tmp_path_factory.mktemp("quickstart")
    shutil.copytree(ROOT / "examples", folder / "examples")
    found = Reader(folder)
    yield found
    larimar("down", "--data-dir", str(folder / ".larimar"))


@pytest.mark.timeout(900)
def test_the_quickstart_of_platform_teams(reader: Reader) -> None:
    said, names = reader.follow("platform.md")
    assert "6" in said["larimar write --bank products --file examples/products.jsonl"]
    inside = said['larimar ask --bank products "A Brandel lamp costs"']
    assert "lamp-price" in inside
    assert "lamp-price" not in said['larimar ask --bank products "The capital of France is"']
    assert names["edit"].version == 7
    clock, stove = names["answers"]
    assert (clock.fact_id, stove.fact_id) == ("clock-price", "stove-price")
    assert clock.version >= 7 > names["before"].version
    assert "products-team" in said["larimar key list"]


@pytest.mark.timeout(900)
def test_the_quickstart_of_publishers(reader: Reader) -> None:
    said, names = reader.follow("publisher.md")
    assert said["larimar publish examples/edits.jsonl"].count("4 taken, 0 refused") == 2
    log = said["larimar log --bank catalogue"]
    assert [log.count(f"catalogue-{number}") for number in (1, 2, 3, 4)] == [1, 1, 1, 1]
    assert (names["first"].version, names["again"].duplicate) == (5, True)
    assert names["conflict"] == "CONFLICT"
    assert [version for version, _, _ in names["seen"]] == [1, 2, 3, 4, 5]
    assert names["answer"].fact_id == "clock-price"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_quickstart_of_operators(reader: Reader) -> None:
    said, _ = reader.follow("operator.md", last=True)
    assert said["larimar replay --bank desk --verify"].count("equals the served state") == 3
    at_six = said['larimar ask --bank desk "The price of a Harrow stove is" --at 6']
    assert "version 6" in at_six
    assert "CHANGED" in said["larimar diff desk 6"]
    assert "DONE" in said["larimar erase --bank desk lamp-maker"]
    assert "erased again" in said["larimar restore monday --ledger ledger-copy.jsonl"]
    for line in ("larimar facts --bank desk", "larimar facts --bank desk-2"):
        assert "stove-price" in said[line]
        assert "lamp-maker" not in said[line] and "bell-price" not in said[line]
    assert "5 facts as in desk" in said["larimar reencode desk desk-2"]
    assert "bank desk is desk-2" in said["larimar bank switch desk desk-2"]
    assert not os.path.exists(reader.folder / ".larimar" / "up.json")
