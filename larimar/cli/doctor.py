"""The command that looks at a whole deployment and says what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from larimar.cli.admin import DataDir, RedisUrl, perform
from larimar.cli.console import FAILED, AsJson, emit, print_table, say, shown_security, working

MODULE = "services.doctor"


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(epilog="Example: larimar doctor --data-dir .larimar --deep")(doctor)


def doctor(
    data_dir: DataDir = Path(".larimar"),
    redis_url: RedisUrl = None,
    target: Annotated[
        str,
        typer.Option("--target", help="HOST:PORT of a pipeline that was not started here."),
    ] = "",
    deep: Annotated[
        bool, typer.Option("--deep", help="Rebuild every bank from its log too, and compare.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Looks at store, services, banks, disk, clock, model, certificate: OK, WARN or FAIL.

    Exit status 1 when something is FAIL. Runs also when the pipeline is down.
    """
    with working("looking at the deployment"):
        findings = perform(
            MODULE,
            data_dir,
            redis_url=redis_url or "",
            target=target,
            security=shown_security(),
            deep=deep,
        )
    counts = {
        level: sum(one["level"] == level for one in findings) for level in ("OK", "WARN", "FAIL")
    }
    if as_json:
        emit({"findings": findings, "counts": counts})
    else:
        rows = [(one["check"], one["level"], one["found"], one["do"]) for one in findings]
        print_table(("check", "", "found", "do"), rows)
        say(", ".join(f"{count} {level}" for level, count in counts.items()))
    if counts["FAIL"]:
        raise typer.Exit(FAILED)
