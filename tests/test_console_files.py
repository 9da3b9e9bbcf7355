"""The console's files: built from its sources, small, and with nothing from elsewhere."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from services.gateway.http.console import FOLDER

SOURCES = FOLDER.parent / "console_src"
MOST_BUILT_BYTES = 150_000


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def files(folder: Path) -> dict[str, str]:
    """Digest of each file below a folder, by path; what npm installs does not count."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    kept = sorted(name for name in found if not name.startswith("node_modules/"))
    return {name: sha256(found[name]) for name in kept}


def test_the_built_console_belongs_to_its_sources() -> None:
    said = json.loads((FOLDER / "build.json").read_text())
    lines = "".join(f"{digest}  {name}\n" for name, digest in files(SOURCES).items())
    hint = "run `make console` and commit what it writes"
    assert said["sources_sha256"] == hashlib.sha256(lines.encode()).hexdigest(), hint
    built = files(FOLDER)
    del built["build.json"]
    assert said["files_sha256"] == built, hint


def test_the_built_console_is_small_and_asks_nobody_else() -> None:
    built = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in built) < MOST_BUILT_BYTES
    page = (FOLDER / "index.html").read_text()
    assert not re.search(r"<style|style=|<script(?![^>]*src=)|\son\w+=", page)
    hosts = {
        host
        for path in built
        for host in re.findall(r"https?://([\w.-]+)", path.read_text(errors="replace"))
    }
    assert hosts <= {"www.w3.org"}  # names of XML namespaces
