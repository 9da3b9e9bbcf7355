"""The suite as two processes side by side, for a machine with two cores: `python -m tests`.

Much of the suite's time is waiting for processes to start and end. Files are dealt out by turns,
those that start Ray all to the first process: two clusters on a machine get into each other's
way. Arguments go to pytest; what the second process says is shown when both have ended.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

NO_TESTS = 5
"""pytest's exit status where nothing was selected."""
_STARTS_RAY = re.compile(r"mark\.ray\b")


def halves(folder: Path) -> tuple[list[Path], list[Path]]:
    """The test files of each process, all of a folder."""
    files = sorted(folder.glob("test_*.py"))
    first = [path for path in files if _STARTS_RAY.search(path.read_text(encoding="utf-8"))]
    others = [path for path in files if path not in first]
    return first + others[1::2], others[::2]


def main(arguments: Sequence[str], folder: Path) -> int:
    """pytest's exit status: of the first process that failed, 0 where neither did."""
    command = [sys.executable, "-m", "pytest", *arguments]
    first, second = halves(folder)
    with tempfile.TemporaryFile() as kept:
        beside = subprocess.Popen([*command, *second], stdout=kept, stderr=subprocess.STDOUT)
        statuses = [subprocess.call([*command, *first]), beside.wait()]
        kept.seek(0)
        sys.stdout.buffer.write(kept.read())
        sys.stdout.flush()
    if set(statuses) == {NO_TESTS}:
        return NO_TESTS
    return next((status for status in statuses if status not in (0, NO_TESTS)), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], Path(__file__).parent))
