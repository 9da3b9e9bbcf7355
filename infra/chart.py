"""The Helm chart of infra/helm as objects: rendered by Helm's library, or by its command line.

`python -m infra.check` passes them through the checks of the plain manifests.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

RELEASE = "larimar"
"""Name that a chart is rendered with; no object has it."""


class ChartRefused(Exception):
    """Helm renders nothing from these values; the message is what it says."""


class Helm(NamedTuple):
    """One of the ways to Helm. Both functions take a chart, its values and a namespace."""

    lint: Callable[[Path, dict[str, Any], str], list[str]]
    """What a strict lint finds, a line each."""
    render: Callable[[Path, dict[str, Any], str], dict[str, str]]
    """Rendered text by the name of its template. Raises: ChartRefused."""


def find_helm() -> Helm | None:
    """Helm's library where it is installed, otherwise `helm` on the PATH; None without either."""
    with contextlib.suppress(ImportError):
        import helm_python

        # Installed from its sources it can be without its native part, in which Helm is.
        with contextlib.suppress(helm_python.HelmLibraryError):
            helm_python.helm_sdk_version()
            return BY_LIBRARY
    return BY_COMMAND if shutil.which("helm") else None


def rendered(
    helm: Helm, chart: Path, values: dict[str, Any], namespace: str
) -> list[tuple[str, dict[str, Any]]]:
    """Every object that a chart makes of values, with the name of its template.

    Raises:
        ChartRefused: the values are refused, or what a template renders is no YAML.
    """
    found = []
    for name, text in sorted(helm.render(chart, values, namespace).items()):
        if not name.endswith(".yaml"):
            continue
        try:
            documents = [*yaml.safe_load_all(text)]
        except yaml.YAMLError as error:
            raise ChartRefused(f"{name} renders no YAML: {error}") from None
        found += [(name, document) for document in documents if document]
    return found


def _lint_by_library(chart: Path, values: dict[str, Any], namespace: str) -> list[str]:
    import helm_python

    report = helm_python.lint(chart, values, strict=True, namespace=namespace)
    # A warning fails a strict lint, and is a message alone; 1 says what is recommended.
    messages = [f"{one['path']}: {one['error']}" for one in report["messages"]
                if one["severity"] > 1]  # fmt: skip
    return messages or list(report["errors"])


def _render_by_library(chart: Path, values: dict[str, Any], namespace: str) -> dict[str, str]:
    import helm_python

    try:
        with helm_python.Chart.load(chart) as loaded:
            loaded.validate_schema(loaded.merge_values(values))
            return loaded.render(values, name=RELEASE, namespace=namespace)
    except helm_python.HelmError as error:
        raise ChartRefused(str(error)) from None


def _command(
    *arguments: str | Path, values: dict[str, Any], namespace: str
) -> subprocess.CompletedProcess[str]:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
        yaml.safe_dump(values, file)
        file.flush()
        command = ["helm", *arguments, "--namespace", namespace, "--values", file.name]
        return subprocess.run(command, capture_output=True, text=True, check=False)


def _lint_by_command(chart: Path, values: dict[str, Any], namespace: str) -> list[str]:
    done = _command("lint", "--strict", chart, values=values, namespace=namespace)
    return [done.stdout + done.stderr] if done.returncode else []


def _render_by_command(chart: Path, values: dict[str, Any], namespace: str) -> dict[str, str]:
    done = _command("template", RELEASE, chart, values=values, namespace=namespace)
    if done.returncode:
        raise ChartRefused(done.stderr)
    texts: dict[str, str] = {}
    parts = re.split(r"^---\n# Source: (.+)\n", done.stdout, flags=re.MULTILINE)
    for name, text in zip(parts[1::2], parts[2::2], strict=True):
        texts[name] = f"{texts[name]}---\n{text}" if name in texts else text
    return texts


BY_LIBRARY = Helm(_lint_by_library, _render_by_library)
BY_COMMAND = Helm(_lint_by_command, _render_by_command)
