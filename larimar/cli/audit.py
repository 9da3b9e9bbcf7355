"""The command about the audit log, for the operator of the machine."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from larimar.cli.admin import DataDir, perform
from larimar.cli.console import AsJson, emit, print_table

MODULE = "services.audit_admin"
_AGO = re.compile(r"(\d+)([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_COLUMNS = ("time", "tenant", "key", "action", "bank", "result")


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(epilog="Example: larimar audit --tenant acme --since 24h")(audit)


def audit(
    tenant: Annotated[str | None, typer.Option("--tenant", help="Only this tenant's.")] = None,
    key: Annotated[str | None, typer.Option("--key", help="Only by this API key's id.")] = None,
    action: Annotated[
        str | None, typer.Option("--action", help="Only one: write, forget, erase, fork ...")
    ] = None,
    bank: Annotated[str | None, typer.Option("--bank", "-b", help="Only on this bank.")] = None,
    fact: Annotated[str | None, typer.Option("--fact", help="Only about this fact id.")] = None,
    since: Annotated[
        str, typer.Option("--since", metavar="TIME", help="From then on: 90m, 24h, 7d or RFC 3339.")
    ] = "",
    limit: Annotated[int, typer.Option("--limit", min=0, help="The newest so many; 0: all.")] = 100,
    data_dir: DataDir = Path(".larimar"),
    as_json: AsJson = False,
) -> None:
    """Lists who changed what: ids alone, no text of a fact. Needs no running pipeline."""
    found = perform(
        MODULE,
        data_dir,
        tenant=tenant,
        key=key,
        action=action,
        bank=bank,
        fact_id=fact,
        since=_start(since) if since else "",
        limit=limit,
    )
    if as_json:
        for entry in found:
            emit(entry)
        return
    rows = [(*(entry.get(name) or "-" for name in _COLUMNS), _about(entry)) for entry in found]
    print_table((*_COLUMNS, "about"), rows)


def _start(given: str) -> str:
    """A time as the log has it. Raises: BadParameter."""
    ago = _AGO.fullmatch(given)
    try:
        then = (
            datetime.fromtimestamp(time.time() - int(ago[1]) * _SECONDS[ago[2]], UTC)
            if ago
            else datetime.fromisoformat(given)
        ).astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        raise typer.BadParameter(
            f"{given!r} is no time: 90m, 24h, 7d, or 2026-01-31T12:00:00Z", param_hint="--since"
        ) from None
    return then.isoformat(timespec="milliseconds")[:-6] + "Z"


def _about(entry: dict[str, Any]) -> str:
    shown = {name: value for name, value in entry.items() if name not in _COLUMNS and value}
    return ", ".join(f"{name} {value}" for name, value in shown.items())
