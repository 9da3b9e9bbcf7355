"""What the documents are held to: parts of a document, and what the code says of itself."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import grpc

from larimar import errors
from services.gateway.http.errors import BadRequest
from services.log_rules import ChainBroken
from tests.command_line import ROOT

SOURCES = [
    path for top in ("larimar", "services") for path in sorted((ROOT / top).rglob("*.py"))
    if "v1" not in path.parts
]  # fmt: skip
WORD = re.compile(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*")
"""An error's reason."""


def section(text: str, heading: str) -> str:
    """What stands under a heading of the second level."""
    return text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]


def cells(text: str, heading: str) -> list[list[str]]:
    """The rows of the tables under a heading, without the two first lines of each."""
    tables = re.findall(r"(?:^\|.*\n)+", section(text, heading) + "\n", re.MULTILINE)
    rows = [row for table in tables for row in table.splitlines()[2:]]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def names_of_tests(file: str) -> set[str]:
    """Names of the tests in a file, those of its classes too."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    owners = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))]
    found = [node for owner in owners for node in owner.body if isinstance(node, functions)]
    return {node.name for node in found if node.name.startswith("test_")}


def most_of_the_code() -> Iterator[tuple[str, str]]:
    """Module and name of each constant that says how much of something there may be."""
    for path in SOURCES:
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign):
                for name in ast.walk(node.targets[0]):
                    if isinstance(name, ast.Name) and name.id.startswith(("MAX_", "MOST_")):
                        yield module, name.id


def reasons_of_the_code() -> dict[str, set[str]]:
    """Every reason that an error may have, with the statuses that it comes with."""
    statuses = {code.value[0]: code.name for code in grpc.StatusCode}
    classes = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type)}
    classes |= {"ChainBroken": ChainBroken, "BadRequest": BadRequest}
    found = {kind.default_reason: {statuses[kind.code]} for kind in classes.values()}
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assigned = {
            node.targets[0].id: node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }
        for call in ast.walk(tree):
            name = getattr(call.func, "id", "") if isinstance(call, ast.Call) else ""
            if name in classes:
                for reason in _words(call.args[1:2] + _named(call, "reason"), assigned):
                    found.setdefault(reason, set()).add(statuses[classes[name].code])
            elif name == "emit_error":  # of the command line alone, which has no status
                for reason in _words(call.args[:1], assigned):
                    found.setdefault(reason, set())
    return found


def _named(call: ast.Call, name: str) -> list[ast.expr]:
    return [keyword.value for keyword in call.keywords if keyword.arg == name]


def _words(given: list[ast.expr], assigned: dict[str, ast.expr]) -> Iterator[str]:
    """The reasons that expressions may come to; of an f-string those that the checks accept."""
    named = [leaf.id for one in given for leaf in ast.walk(one) if isinstance(leaf, ast.Name)]
    everything = [*given, *(assigned[name] for name in named if name in assigned)]
    for leaf in (leaf for one in everything for leaf in ast.walk(one)):
        if isinstance(leaf, ast.JoinedStr):
            assert ast.unparse(leaf) == "f'WRONG_{what.upper()}'", ast.unparse(leaf)
            yield from ("WRONG_ENCODER", "WRONG_SCOPE")
        elif isinstance(leaf, ast.Constant) and WORD.fullmatch(str(leaf.value)):
            yield leaf.value


def logged_lines() -> Iterator[str]:
    """What services may write to their logs as warnings or errors, with X for what is filled in."""
    for path in SOURCES:
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = getattr(call.func, "attr", "") if isinstance(call, ast.Call) else ""
            if name in ("warning", "error") and call.args:
                text = getattr(call.args[0], "value", None)
                if isinstance(text, str):
                    yield re.sub(r"%[.\d]*[sdf]", "X", text)
