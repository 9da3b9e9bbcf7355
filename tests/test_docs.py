"""The documents: their code runs, what they name exists, and their tables are the code's."""

from __future__ import annotations

import functools
import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import redis
import typer

from larimar.cli import app
from larimar.index import CODED_BYTES, code_count
from larimar.memory import BankState, Event, Kind, Payload
from larimar.rows import INDEX_ROWS
from larimar.v1 import decoder_pb2, encoder_pb2, larimar_pb2, memory_pb2, scope_pb2
from services.log import Append
from services.redis_log import RedisLog
from services.settings import Settings, default_settings
from services.store import EmbeddedStore
from services.store_server import server_command
from tests.banks import config_of
from tests.command_line import ROOT, environment, free_port
from tests.document_checks import (
    cells,
    logged_lines,
    most_of_the_code,
    names_of_tests,
    reasons_of_the_code,
    section,
)

DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted(path for path in ROOT.glob("docs/*.md") if path.name != "log.md"),
    *sorted(ROOT.glob("docs/decisions/*.md")),
    *sorted(ROOT.glob("docs/quickstart/*.md")),
    *sorted(ROOT.glob("services/*/README.md")),
    ROOT / "infra" / "README.md",
]
"""What must be true of the code as it is; the log of experiments is of its time."""
README = (ROOT / "README.md").read_text(encoding="utf-8")
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
PROMISES = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
DECISIONS = sorted(ROOT.glob("docs/decisions/*.md"))
SETTINGS = sorted(path.name for path in ROOT.glob("infra/settings-*.json"))
NOT_KEPT = {".venv", ".larimar", "out"}
"""Folders that the documents name and that no checkout begins with."""
GIVEN = {"val.txt", "trip.txt"}
"""Files that the documents name and that their readers bring."""
MODELS = {"larimar/BANK", "larimar/demo"}
"""Names of banks as models, which look like paths."""

_PATH = re.compile(r"(?<![\w./:-])[\w.-]+/[\w./-]*\w/?|(?<![\w./-])[\w.-]+/(?![\w./*])")
_FILE = re.compile(r"(?<![\w./-])[\w-]+\.(?:py|md|proto|toml|txt)\b")
_CODE = re.compile(r"^```\w*\n(.*?)^```|^    (\S.*?)$|`([^`\n]+)`", re.DOTALL | re.MULTILINE)
_ABSOLUTE = re.compile(r"(?<![\w./:{}])~?/(?!v1/)[a-z][\w.-]*/[\w./-]+")


def by_name(document: Path) -> str:
    return str(document.relative_to(ROOT))


def blocks(language: str) -> list[str]:
    """The fenced blocks of README.md in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def code(text: str) -> list[str]:
    """Code spans, fenced blocks and indented lines of a document."""
    return ["".join(found) for found in _CODE.findall(text)]


def exists(name: str, document: Path) -> bool:
    """Whether a path names something of the project, from its root or from the document."""
    return any((folder / name).exists() for folder in (ROOT, document.parent))


@functools.cache
def file_names() -> frozenset[str]:
    """Names of the files of the code, wherever they lie."""
    tops = ("larimar", "services", "protos")
    return frozenset(path.name for top in tops for path in (ROOT / top).rglob("*"))


@functools.cache
def definitions() -> frozenset[str]:
    """Names of the functions and classes of the code."""
    sources = [*ROOT.glob("larimar/*.py"), *ROOT.glob("services/**/*.py")]
    texts = (source.read_text(encoding="utf-8") for source in sources)
    return frozenset(name for text in texts for name in re.findall(r"(?:def|class) (\w+)", text))


@pytest.mark.parametrize("document", DOCUMENTS, ids=by_name)
def test_paths_and_files_in_documents_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    tops = {path.name for path in ROOT.iterdir()} - NOT_KEPT
    paths = [
        path
        for path in _PATH.findall(text)
        if path not in MODELS
        and (path.split("/")[0] in tops or _FILE.fullmatch(path.rsplit("/", 1)[1]))
    ]
    known = file_names() | GIVEN
    names = [name for name in _FILE.findall(text) if name not in known]
    assert [path for path in (*paths, *names) if not exists(path, document)] == []


def test_the_search_for_paths_finds_them() -> None:
    text = "in larimar/cli/, docs/a.md; (services/no.py) and `tests/test_x.py`, and/or a.proto"
    found = set(_PATH.findall(text))
    assert found == {"larimar/cli/", "docs/a.md", "services/no.py", "tests/test_x.py", "and/or"}
    assert not exists("services/no.py", ROOT / "README.md")
    assert _FILE.findall(text) == ["a.proto"]
    assert _ABSOLUTE.findall(
        "see /opt/here/a.md and ~/b/c, not a/b/c.md, /v1/x or redis://h:1/x"
    ) == [
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
        for command in re.findall(r"(?<!from )(?<!\.)\blarimar ([a-z]+)\b", line, re.MULTILINE):
            assert command in commands, line


def test_every_target_is_in_contributing() -> None:
    named = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for target in re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE):
        assert target == "help" or f"`make {target}`" in named


@pytest.mark.parametrize("document", DOCUMENTS, ids=by_name)
def test_functions_in_documents_exist(document: Path) -> None:
    spans = re.findall(r"`([\w.]+)\(\)`", document.read_text(encoding="utf-8"))
    unknown = [name for span in spans for name in span.split(".") if name not in definitions()]
    assert not [name for name in unknown if name != "code"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=by_name)
def test_documents_name_no_machine_and_no_host(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert not _ABSOLUTE.findall(text)
    assert not re.findall(r"https?:(?!//localhost)", text)
    assert not re.findall(r"\bissues? #?\d", text, re.IGNORECASE)


def test_the_grid_has_every_noun_in_every_column() -> None:
    rows = cells(README, "The grid")
    assert [row[0] for row in rows] == ["encoder", "memory", "scope", "decoder", "gateway"]
    for row in rows:
        assert len(row) == 5
        assert all((ROOT / path).exists() for path in row[1:]), row


def test_every_promise_is_held_by_tests() -> None:
    """Each has a number, what keeps it, and tests that there are; README.md lists the same ones."""
    parts = re.split(r"^## (\d+)\. (.+)\n", PROMISES, flags=re.MULTILINE)[1:]
    numbers, names, bodies = parts[::3], parts[1::3], parts[2::3]
    assert [int(number) for number in numbers] == list(range(1, len(numbers) + 1))
    listed = re.findall(r"^(\d+)\. \*\*(.+?)\.\*\* \S", section(README, "Promises"), re.MULTILINE)
    assert listed == list(zip(numbers, names, strict=True))
    assert len(names) >= 14
    for name, body in zip(names, bodies, strict=True):
        stated, kept = body.split("\nKept by: ")
        assert len(stated.split()) >= 12, name
        tests = re.findall(r"^- `(tests/test_\w+\.py)::(test_\w+)`$", kept, re.MULTILINE)
        assert tests and len(tests) == kept.count("\n- "), name
        for file, test in tests:
            assert test in names_of_tests(file), f"{file}::{test}"


def test_limits_are_those_of_the_code() -> None:
    rows = cells(OPERATIONS, "Limits")
    assert len(rows) > 80
    for constant, module, value, reason in rows:
        assert getattr(importlib.import_module(module), constant) == float(value), constant
        assert len(reason.split()) >= 3, constant
    listed = [(module, constant) for constant, module, _, _ in rows]
    assert len(listed) == len(set(listed))
    assert set(most_of_the_code()) <= set(listed)


def test_the_reasons_of_errors_are_those_of_the_code() -> None:
    rows = cells(OPERATIONS, "Errors by reason")
    known = {reason: set(status.split(", ")) - {"-"} for reason, status, _, _ in rows}
    assert len(known) == len(rows) > 120
    assert known == reasons_of_the_code()
    for reason, _, means, do in rows:
        assert means.endswith(".") and do, reason


def test_the_search_for_reasons_finds_them() -> None:
    found = reasons_of_the_code()
    assert found["CONFLICT"] == {"ALREADY_EXISTS"}  # of the class
    assert found["LOG_CHANGED"] == {"FAILED_PRECONDITION"}  # of a class outside of larimar.errors
    assert found["STORE_DOWN"] == {"UNAVAILABLE"}  # given
    assert found["EMPTY_EDIT"] == {"INVALID_ARGUMENT"}  # one side of a condition
    assert found["BAD_EVENT"] == {"INVALID_ARGUMENT"}  # by a constant's name
    assert found["BAD_KEY"] == {"INVALID_ARGUMENT", "UNAUTHENTICATED"}  # in two places
    assert found["USAGE"] == found["OS_ERROR"] == set()  # of the command line alone


def test_the_settings_of_a_store_are_those_of_the_embedded_one() -> None:
    block = section(OPERATIONS, "Start").split("A store of your own", 1)[1]
    named = dict(re.findall(r"^    ([a-z-]+) (\S+)$", block, re.MULTILINE))
    command = server_command(Path("server"), Path("data"), Path("socket"))
    options = dict(pairwise(command))
    place = {"port", "unixsocket", "unixsocketperm", "dir"}
    ours = {name[2:]: value for name, value in options.items() if name.startswith("--")}
    assert {name: value.strip('"') for name, value in named.items()} == {
        name: value for name, value in ours.items() if name not in place
    }
    reasons = re.findall(r"`([a-z-]+) \S+`", " ".join(row[0] for row in cells(OPERATIONS, "Start")))
    assert set(named) <= set(reasons)


def test_the_lines_to_alert_on_are_those_of_the_logs() -> None:
    lines = list(logged_lines())
    spans = [span for row in cells(OPERATIONS, "Observe") for span in re.findall("`(.+?)`", row[0])]
    assert len(spans) >= 10
    for span in spans:
        wanted = re.sub(r"\b[A-Z]\b", "X", span.removesuffix("..."))
        assert any(wanted.strip() in line for line in lines), span


def test_bytes_of_a_fact_in_a_follower() -> None:
    """Folded at once, so that no room for growth counts, and with as many rows as need no index."""
    entries = [
        (Event(n, Kind.WRITE, one.fact_id, f"e{n}", 0, one.sha256, ""), one)
        for n, one in enumerate(facts(INDEX_ROWS - 1), 1)
    ]
    for part in ("memory", "scope"):
        state = BankState(SIZED, (part,))
        state.fold(entries)
        expected = bytes_a_fact(f"{part} follower") * len(entries)
        assert state.bytes_held == pytest.approx(expected, rel=0.05), part
        indexed = bytes_a_fact(f"{part} follower", I=1) - bytes_a_fact(f"{part} follower")
        width = SIZED.prompt_size if part == "memory" else SIZED.scope_size
        assert indexed == code_count(width) // 2 + CODED_BYTES, part


async def test_bytes_of_an_event_in_the_store(tmp_path: Path) -> None:
    count, batch = 2000, 200
    with EmbeddedStore(tmp_path) as store, redis.Redis.from_url(store.url) as raw:
        log = RedisLog(store.url)
        await log.make_bank("tenant", "bank", SIZED)
        before = raw.info("memory")["used_memory"]
        appends = [
            Append(Kind.WRITE, f"{n:032x}", one.fact_id, b"request", one.to_bytes())
            for n, one in enumerate(facts(count))
        ]
        for start in range(0, count, batch):
            await log.append("tenant", "bank", appends[start : start + batch])
        held = raw.info("memory")["used_memory"] - before
        await log.close()
    assert held / count == pytest.approx(bytes_a_fact("store, an event"), rel=0.07)


SIZED = config_of("slots", prompt_size=64, value_size=96, scope_size=48)
TEXTS = ("The capital of Velmora is", "Tarsin")


def bytes_a_fact(where: str, **changed: int) -> float:
    """What docs/operations.md says for a bank of these sizes and texts, without an index."""
    formulas = {row[0]: row[1].strip("`") for row in cells(OPERATIONS, "Scale")}
    letters = {"D": SIZED.prompt_size, "C": SIZED.value_size, "S": SIZED.scope_size}
    return eval(formulas[where], letters | {"R": 1, "I": 0, "T": sum(map(len, TEXTS))} | changed)


def facts(count: int) -> Iterator[Payload]:
    sizes = ((1, SIZED.prompt_size), (SIZED.value_size,), (1, SIZED.scope_size))
    addresses, value, scope = (np.ones(size, np.int32) for size in sizes)
    for n in range(count):
        yield Payload(f"{n:024x}", *TEXTS, (), addresses, value, scope)


def test_decisions_are_numbered() -> None:
    assert [int(path.name[:4]) for path in DECISIONS] == list(range(1, len(DECISIONS) + 1))


@pytest.mark.parametrize("document", DECISIONS, ids=by_name)
def test_a_decision_says_why_what_follows_and_what_would_change_it(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert text.startswith(f"# {int(document.name[:4])}. ")
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


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_infra_load(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"- {name}: " in (ROOT / "infra" / "README.md").read_text(encoding="utf-8")
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


@pytest.mark.timeout(900)
def test_the_python_of_the_readme_runs_in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    block = blocks("python")[0]
    monkeypatch.chdir(ROOT)
    held: dict = {}
    exec(compile(block, "README.md", "exec"), held)
    model, answer, elsewhere = held["model"], held["answer"], held["elsewhere"]
    assert (answer.in_scope, answer.fact_id) == (True, held["edit"].fact_id)
    assert not elsewhere.in_scope
    assert elsewhere.text == model.ask("The capital of France is", memory=False).text
    assert list(model.facts()) == []


@pytest.mark.timeout(900)
def test_the_shell_and_the_clients_of_the_readme_run_on_a_pipeline(tmp_path: Path) -> None:
    (shell,) = blocks("shell")
    activate, *lines = shell.splitlines()
    assert activate == ". .venv/bin/activate"
    assert (lines[0], lines[-1]) == ("larimar up --detach", "larimar down")
    port, data = free_port(), ["--data-dir", str(tmp_path / "data")]
    http_port = free_port()
    ports = ["--port", str(port), "--http-port", str(http_port)]
    more = {"up": ["--no-ray", *ports, *data], "down": data}

    def run(line: str) -> str:
        larimar, name, *rest = shlex.split(line)
        assert larimar == "larimar"
        command = [sys.executable, "-m", "larimar.cli", name, *rest, *more.get(name, [])]
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=environment(LARIMAR_TARGET=f"localhost:{port}"),
            capture_output=True,
            text=True,
            timeout=420,
            check=False,
        )
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    said: dict[str, str] = {}
    try:
        for line in lines[:-1]:
            said[line] = run(line)
        local = {"localhost:9000": f"localhost:{port}", "localhost:8000": f"localhost:{http_port}"}
        edits, said_over_http, events = [
            executed(functools.reduce(lambda text, one: text.replace(*one), local.items(), block))
            for block in blocks("python")[1:]
        ]
    finally:
        run(lines[-1])
    before, after = (text for line, text in said.items() if line.startswith("larimar ask"))
    assert "from fact velmora-capital" in before and "version 1" in before
    assert "from fact velmora-capital" in after and "version 1" in after
    assert "CHANGED" in said["larimar diff default 1 --to-bank trial"]
    assert "wrote 1, forgot 0, 0 conflicts" in said["larimar merge trial default"]
    assert "DONE" in said["larimar erase velmora-capital"]
    assert "equals the served state" in said["larimar replay --verify"]
    archive = tmp_path / "velmora-archive" / "events.jsonl"
    assert "Tarsin" not in archive.read_text() and "Oskelund" not in archive.read_text()
    assert edits["answer"].fact_id == edits["edit"].fact_id
    assert edits["replay"].matches
    assert said_over_http["said"].larimar["bank"] == "default"
    assert (events["again"].version, events["again"].duplicate) == (events["first"].version, True)
    assert events["seen"].event_id == "catalogue-7731"


def executed(block: str) -> dict:
    """The names that a block of README.md leaves behind."""
    held: dict = {}
    exec(compile(block, "README.md", "exec"), held)
    return held
