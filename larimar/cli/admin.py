"""How the operator's commands hand a job to a program of the checkout, and get its answer."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from larimar.cli.processes import checkout_environment, checkout_root
from larimar.errors import LarimarError, from_code

DataDir = Annotated[Path, typer.Option("--data-dir", file_okay=False, help="Of the pipeline.")]
RedisUrl = Annotated[
    str | None, typer.Option("--redis-url", help="The pipeline's store, when not the embedded one.")
]


def perform(
    module: str, data_dir: Path, told: Callable[[str], None] = lambda _: None, **job: Any
) -> list[Any]:
    """What a program answers, a JSON value a line.

    Args:
        told: hears each line of progress, {"progress": text}, as it comes.

    Raises: LarimarError, as it said.
    """
    root = checkout_root()
    job["data_dir"] = str(data_dir.resolve())
    answers = []
    with tempfile.TemporaryFile("w+") as said:
        with subprocess.Popen(
            [sys.executable, "-m", module],
            cwd=root,
            env=checkout_environment(root),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        ) as child:
            assert child.stdin and child.stdout
            child.stdin.write(json.dumps(job) + "\n")
            child.stdin.close()
            for line in child.stdout:
                value = json.loads(line)
                if isinstance(value, dict) and value.keys() == {"progress"}:
                    told(value["progress"])
                else:
                    answers.append(value)
        if child.returncode == 0:
            return answers
        said.seek(0)
        last = (said.read().strip().splitlines() or ["it said nothing"])[-1]
    try:
        error = json.loads(last)
    except ValueError:
        raise LarimarError(f"the program {module} ended: {last}") from None
    raise from_code(error["code"], error["message"], error["reason"])
