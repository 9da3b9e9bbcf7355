"""How the operator's commands hand a job to a program of the checkout, and get its answer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from larimar.cli.processes import checkout_environment, checkout_root
from larimar.errors import LarimarError, from_code

DataDir = Annotated[Path, typer.Option("--data-dir", file_okay=False, help="Of the pipeline.")]
RedisUrl = Annotated[
    str | None, typer.Option("--redis-url", help="The pipeline's store, when not the embedded one.")
]


def perform(module: str, data_dir: Path, **job: Any) -> list[Any]:
    """What a program answers, a JSON value a line. Raises: LarimarError, as it said."""
    root = checkout_root()
    job["data_dir"] = str(data_dir.resolve())
    done = subprocess.run(
        [sys.executable, "-m", module],
        input=json.dumps(job) + "\n",
        cwd=root,
        env=checkout_environment(root),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return [json.loads(line) for line in done.stdout.splitlines()]
    last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    try:
        error = json.loads(last)
    except ValueError:
        raise LarimarError(f"the program {module} ended: {last}") from None
    raise from_code(error["code"], error["message"], error["reason"])
