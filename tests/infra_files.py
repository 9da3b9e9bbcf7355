"""The command lines in the files of infra/, as they would run in their containers."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import yaml

from tests.command_line import ROOT

INFRA = ROOT / "infra"
COMPOSE = yaml.safe_load((INFRA / "compose.yaml").read_text(encoding="utf-8"))


def instructions() -> list[tuple[str, str]]:
    """Instruction and argument of each line of the image definition, lines joined."""
    text = (INFRA / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    pairs = [line.split(None, 1) for line in lines if line and not line.startswith("#")]
    return [(name, argument) for name, argument in pairs]


def instruction(name: str) -> str:
    """The argument of the last instruction of a name."""
    return [argument for found, argument in instructions() if found == name][-1]


def image_environment() -> dict[str, str]:
    """What the image sets, with the checkout in the place of its copy."""
    found: dict[str, str] = {}
    for name, argument in instructions():
        if name == "ENV":
            found |= dict(re.findall(r"(\w+)=(\S+)", argument))
    found.pop("PATH")
    return {name: value.replace("/srv/larimar", str(ROOT)) for name, value in found.items()}


def python_of(words: list[str]) -> list[str]:
    """A command of the image with this environment's Python."""
    assert words[0] == "python"
    return [sys.executable, *words[1:]]


def entrypoint() -> list[str]:
    return python_of(json.loads(instruction("ENTRYPOINT")))


def health_check(data_dir: Path) -> list[str]:
    """The image's own check, of another data directory."""
    words = json.loads(instruction("HEALTHCHECK").partition("CMD ")[2])
    return placed(python_of(words), {"/var/lib/larimar": str(data_dir)})


def placed(words: list[str], places: dict[str, str]) -> list[str]:
    """A command with other folders, ports and values in the place of whole words."""
    missing = set(places) - set(words)
    assert not missing, f"{words} has no {missing}"
    return [places.get(word, word) for word in words]


def filled(text: str, values: dict[str, str]) -> str:
    """A value of the compose file with its variables."""
    return re.sub(r"\$\{(\w+)[^}]*\}", lambda found: values[found[1]], text)


def shell(line: str, env: dict[str, str], cwd: Path) -> subprocess.CompletedProcess:
    """A line as `sh -c` of a container runs it."""
    return subprocess.run(
        ["sh", "-c", line], env=env, cwd=cwd, capture_output=True, text=True, check=False
    )


def groups() -> list[dict]:
    """The worker groups of the RayService."""
    text = (INFRA / "kubernetes" / "rayservice.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)["spec"]["rayClusterConfig"]["workerGroupSpecs"]


def offered_resources(of: list[dict] | None = None) -> dict[str, float]:
    """The custom resources that some pod of worker groups offers, as `ray start` reads them; of the
    RayService's where none are given."""
    found: dict[str, float] = {}
    for group in groups() if of is None else of:
        # KubeRay puts the text into a shell's command line, which takes one level of quotes off.
        text = shlex.split(group["rayStartParams"].get("resources", "'{}'"))[0]
        found |= json.loads(text.replace("\\", ""))
    return found
