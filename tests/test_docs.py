"""The documents: their code runs, what they name exists, and their tables are the code's."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from larimar.cli import app
from larimar.v1 import decoder_pb2, encoder_pb2, larimar_pb2, memory_pb2, scope_pb2
from services.settings import Settings, default_settings
from tests.command_line import ROOT, environment, free_port

DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    ROOT / "docs" / "architecture.md",
    *sorted(ROOT.glob("docs/decisions/*.md")),
    *sorted(ROOT.glob("services/*/README.md")),
    ROOT / "infra" / "README.md",
]
"""What must be true of the code as it is; the log of experiments is of its time."""
README = (ROOT / "README.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PROMISES = ("Durable", "Exactly once", "Replay is bit-identical", "Forgetting is exact")
PROMISES += ("Fresh reads", "Untouched elsewhere", "Isolated", "Bounded")
NOT_KEPT = {".venv", ".larimar", "out"}
"""Folders that the documents name and that no checkout begins with."""
GIVEN = {"val.txt"}
"""Files that the documents name and that their readers bring."""

_PATH = re.compile(r"(?<![\w./:-])[\w.-]+/[\w./-]*\w/?|(?<![\w./-])[\w.-]+/(?![\w./*])")
_FILE = re.compile(r"(?<![\w./-])[\w-]+\.(?:py|md|proto|toml|txt)\b")
_CODE = re.compile(r"^```\w*\n(.*?)^```|^    (\S.*?)$|`([^`\n]+)`", re.DOTALL | re.MULTILINE)
_ABSOLUTE = re.compile(r"(?<![\w./:{}])~?/[a-z][\w.-]*/[\w./-]+")


def by_name(document: Path) -> str:
    return str(document.relative_to(ROOT))


def blocks(language: str) -> list[str]:
    """The fenced blocks of README.md in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def code(text: str) -> list[str]:
    """Code spans, fenced blocks and indented lines of a document."""
    return ["".join(found) for found in _CODE.findall(text)]


def cells(text: str, heading: str) -> list[list[str]]:
    """The rows of the table under a heading, without its two first lines."""
    section = text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def exists(name: str, document: Path) -> bool:
    """Whether a path names something of the project, from its root or from the document."""
    return any((folder / name).exists() for folder in (ROOT, document.parent))


@pytest.mark.parametrize("document", DOCUMENTS, ids=by_name)
def test_paths_and_files_in_documents_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    tops = {path.name for path in ROOT.iterdir()} - NOT_KEPT
    paths = [
        path
        for path in _PATH.findall(text)
        if path.split("/")[0] in tops or _FILE.fullmatch(path.rsplit("/", 1)[1])
    ]
    tree = [path for top in ("larimar", "services", "protos") for path in (ROOT / top).rglob("*")]
    known = {path.name for path in tree} | GIVEN
    names = [name for name in _FILE.findall(text) if name not in known]
    assert [path for path in (*paths, *names) if not exists(path, document)] == []


def test_the_search_for_paths_finds_them() -> None:
    text = "in larimar/cli/, docs/a.md; (services/no.py) and `tests/test_x.py`, and/or a.proto"
    found = set(_PATH.findall(text))
    assert found == {"larimar/cli/", "docs/a.md", "services/no.py", "tests/test_x.py", "and/or"}
    assert not exists("services/no.py", ROOT / "README.md")
    assert _FILE.findall(text) == ["a.proto"]
    assert _ABSOLUTE.findall("see /opt/here/a.md and ~/b/c, not a/b/c.md or redis://h:1/x") == [
        "/opt/here/a.md",
        "~/b/c",
    ]


@pytest.mark.parametrize("document", DOCUMENTS, ids=by_name)
def test_targets_and_commands_in_documents_exist(document: Path) -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    commands = set(typer.main.get_command(app).commands)
    for line in code(document.read_text(encoding="utf-8")):
        for target in re.findall(r"\bmake ([a-z]+)", line):
            assert target in targets, line
        for command in re.findall(r"(?<!from )\blarimar ([a-z]+)\b", line, re.MULTILINE):
            assert command in commands, line


def test_every_target_is_in_contributing() -> None:
    named = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for target in re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE):
        assert target == "help" or f"`make {target}`" in named


@pytest.mark.parametrize("document", DOCUMENTS, ids=by_name)
def test_functions_in_documents_exist(document: Path) -> None:
    sources = [*ROOT.glob("larimar/*.py"), *ROOT.glob("services/**/*.py")]
    defined = set()
    for source in sources:
        defined |= set(re.findall(r"(?:def|class) (\w+)", source.read_text(encoding="utf-8")))
    spans = re.findall(r"`([\w.]+)\(\)`", document.read_text(encoding="utf-8"))
    unknown = [name for span in spans for name in span.split(".") if name not in defined]
    assert not [name for name in unknown if name != "code"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=by_name)
def test_documents_name_no_machine_and_no_host(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert not _ABSOLUTE.findall(text)
    assert not re.findall(r"https?:", text)
    assert not re.findall(r"\bissues? #?\d", text, re.IGNORECASE)


def test_the_grid_has_every_noun_in_every_column() -> None:
    rows = cells(README, "The grid")
    assert [row[0] for row in rows] == ["encoder", "memory", "scope", "decoder", "gateway"]
    for row in rows:
        assert len(row) == 5
        assert all((ROOT / path).exists() for path in row[1:]), row


def test_every_promise_is_held_by_tests() -> None:
    rows = cells(README, "Promises")
    assert tuple(re.match(r"\*\*(.+)\.\*\*", row[0])[1] for row in rows) == PROMISES
    for name in ", ".join(tests for _, tests in rows).split(", "):
        assert re.search(r"^ *(?:async )?def test_", (ROOT / name).read_text(), re.MULTILINE), name


def test_limits_are_those_of_the_code() -> None:
    rows = cells(ARCHITECTURE, "Limits")
    assert len(rows) > 20
    for constant, module, value, reason in rows:
        assert getattr(importlib.import_module(module), constant) == float(value), constant
        assert reason


@pytest.mark.parametrize("number", range(1, 8))
def test_a_decision_says_why_what_follows_and_what_would_change_it(number: int) -> None:
    (document,) = ROOT.glob(f"docs/decisions/{number:04}-*.md")
    text = document.read_text(encoding="utf-8")
    assert text.startswith(f"# {number}. ")
    parts = re.findall(r"^\*\*(.+?)\.\*\*", text, re.MULTILINE)
    assert parts == ["Context", "Decision", "Consequence", "What would change our mind"]
    assert len(text.splitlines()) <= 60


def test_contracts_keep_to_their_naming() -> None:
    """Decision 7: no suffix; a Request and a Response of its own for each RPC."""
    messages = []
    for module in (decoder_pb2, encoder_pb2, larimar_pb2, memory_pb2, scope_pb2):
        for service in module.DESCRIPTOR.services_by_name.values():
            assert not service.name.endswith("Service")
            for method in service.methods:
                assert method.input_type.name == f"{method.name}Request"
                assert method.output_type.name == f"{method.name}Response"
                messages += [method.input_type.name, method.output_type.name]
    assert len(messages) == len(set(messages)) > 40


@pytest.mark.parametrize("name", ["settings-cpu.json", "settings-gpu.json"])
def test_settings_of_infra_load(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LARIMAR_SETTINGS", str(ROOT / "infra" / name))
    monkeypatch.delenv("LARIMAR_REDIS_SERVER", raising=False)
    settings = default_settings()
    assert Settings.from_json(settings.to_json()) == settings
    assert settings.encoder.replicas >= 1
    shares = sum(
        one.gpus * one.replicas for one in (settings.encoder, settings.scope, settings.decoder)
    )
    assert (shares > 0) == ("gpu" in name)
    assert shares <= 1.0 + 1e-9


def test_every_setting_is_in_the_infra_readme() -> None:
    text = (ROOT / "infra" / "README.md").read_text(encoding="utf-8")
    for name in Settings.__dataclass_fields__:
        assert f"`{name}`" in text


@pytest.mark.timeout(600)
def test_the_python_of_the_readme_runs_in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    block, _ = blocks("python")
    monkeypatch.chdir(ROOT)
    held: dict = {}
    exec(compile(block, "README.md", "exec"), held)
    model, answer, elsewhere = held["model"], held["answer"], held["elsewhere"]
    assert (answer.in_scope, answer.fact_id) == (True, held["edit"].fact_id)
    assert not elsewhere.in_scope
    assert elsewhere.text == model.ask("The capital of France is", memory=False).text
    assert list(model.facts()) == []


@pytest.mark.timeout(600)
def test_the_shell_and_the_client_of_the_readme_run_on_a_pipeline(tmp_path: Path) -> None:
    _, block = blocks("python")
    (shell,) = blocks("shell")
    activate, *lines = shell.splitlines()
    assert activate == ". .venv/bin/activate"
    assert (lines[0], lines[-1]) == ("larimar up --detach", "larimar down")
    port, data = free_port(), ["--data-dir", str(tmp_path / "data")]
    more = {"up": ["--no-ray", "--port", str(port), *data], "down": data}

    def run(line: str) -> str:
        larimar, name, *rest = shlex.split(line)
        assert larimar == "larimar"
        command = [sys.executable, "-m", "larimar.cli", name, *rest, *more.get(name, [])]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment(LARIMAR_TARGET=f"localhost:{port}"),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{line}: {done.stderr}"
        return done.stdout + done.stderr

    said = {}
    try:
        for line in lines[:-1]:
            said[line.split()[1]] = run(line)
        held: dict = {}
        exec(
            compile(block.replace("localhost:9000", f"localhost:{port}"), "README.md", "exec"), held
        )
    finally:
        run(lines[-1])
    assert "from fact velmora-capital" in said["ask"]
    assert "equals the served state" in said["replay"]
    assert held["answer"].fact_id == held["edit"].fact_id
    assert held["replay"].matches
