"""Programs of the checkout that work on a store itself: a job in, an answer out, as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from larimar.cli.processes import checkout_environment, checkout_root
from larimar.errors import LarimarError, from_code


def perform(
    module: str, job: dict[str, Any], told: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """What a program answers.

    Args:
        told: hears each line of progress that comes before the answer.

    Raises: LarimarError, as it said.
    """
    root = checkout_root()
    answer: dict[str, Any] = {}
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
                answer = json.loads(line)
                if answer.keys() == {"progress"}:
                    told(answer["progress"])
        if child.returncode == 0:
            return answer
        said.seek(0)
        last = (said.read().strip().splitlines() or ["it said nothing"])[-1]
    try:
        error = json.loads(last)
    except ValueError:
        raise LarimarError(f"the store's program ended: {last}") from None
    raise from_code(error["code"], error["message"], error["reason"])
