"""What the doctor finds: one thing that was looked at, how it is, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

OK, WARN, FAIL = "OK", "WARN", "FAIL"
LEVELS = (OK, WARN, FAIL)
"""In the order of their weight."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    check: str
    """What was looked at: a word before a dot that groups it, and one after."""
    level: str
    found: str
    do: str = ""
    """What to do; empty where all is well."""


def worst(findings: Iterable[Finding]) -> str:
    """The heaviest level among them."""
    return max((finding.level for finding in findings), key=LEVELS.index, default=OK)


def graded(check: str, value: float, warn: float, fail: float, found: str, do: str) -> Finding:
    """A finding about a number that should be small: WARN from one value on, FAIL from another."""
    level = FAIL if value >= fail else WARN if value >= warn else OK
    return Finding(check, level, found, "" if level == OK else do)


def not_checked(check: str, why: str, do: str) -> Finding:
    """A finding about what could not be looked at."""
    return Finding(check, WARN, f"not checked: {why}", do)
