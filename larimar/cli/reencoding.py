"""Commands that bring a bank over to another model: reencode, bank switch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from larimar.cli.banks import BankName, bank_app, bank_json
from larimar.cli.console import (
    DEFAULT_TARGET,
    AsJson,
    Target,
    Timeout,
    connect,
    emit,
    note,
    progressing,
    say,
    shorten,
)
from larimar.errors import DataLoss, FailedPrecondition, NotFound
from larimar.results import ImportResult

if TYPE_CHECKING:
    from larimar.client import Client

TIMEOUT_S = 24 * 3600.0
"""A bank of a million facts takes hours to encode; the commands go on where they were left."""

TRIES = 10
"""Times a switch begins again because the bank was edited on the way; each exports the new bank."""
EDITED = "BANK_EDITED"
"""Reason of a switch that an edit has overtaken."""

NewBank = Annotated[
    str, typer.Argument(metavar="NEW", help="The same bank for the model that serves.")
]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command(epilog="Example: larimar reencode demo demo-2 --model models/larimar-small")(
        reencode
    )
    bank_app.command(epilog="Example: larimar bank switch demo demo-2")(switch)


def reencode(
    bank: Annotated[str, typer.Argument(metavar="BANK", help="The bank, of another model.")],
    new: NewBank,
    model: Annotated[
        Path | None,
        typer.Option(file_okay=False, exists=True, help="Refuse unless this model folder serves."),
    ] = None,
    target: Target = DEFAULT_TARGET,
    timeout: Timeout = TIMEOUT_S,
    as_json: AsJson = False,
) -> None:
    """Makes a bank with another's whole log, encoded by the model that serves.

    Versions, event ids, texts and order stay. Run it again to bring over what was edited since.
    """
    digest = _encoder_digest(model) if model else None
    with (
        connect(target, timeout) as client,
        progressing(f"re-encoding {bank}", as_json) as update,
    ):
        result = client.reencode(
            bank, new, encoder_digest=digest, progress=update, timeout_s=timeout
        )
    if as_json:
        shown = {"digest": result.digest, "facts": result.facts, "behind": result.behind}
        emit({**bank_json(result.info), **shown})
        return
    say(
        f"bank {result.info.bank}: version {result.info.version}, {result.facts} facts as in "
        f"{bank}, digest {shorten(result.digest)}"
    )
    if result.behind:
        note(f"{result.behind} events came to {bank} meanwhile: run it again")


def switch(
    name: BankName,
    new: NewBank,
    target: Target = DEFAULT_TARGET,
    timeout: Timeout = TIMEOUT_S,
    as_json: AsJson = False,
) -> None:
    """Makes NAME the bank that NEW is, entry for entry; NAME's old vectors are deleted.

    Every call finds the old bank or the new one. What is edited meanwhile is brought over first; a
    command that gives up on edits, or was cut off, has changed nothing and is run again.
    """
    with (
        connect(target, timeout) as client,
        progressing(f"switching {name}", as_json) as update,
    ):
        for left in reversed(range(TRIES)):
            try:
                made = _switched(client, name, new, update, timeout)
                break
            except FailedPrecondition as error:
                if error.reason != EDITED or not left:
                    raise
    if as_json:
        emit({**bank_json(made.info), "digest": made.digest})
    else:
        say(
            f"bank {name} is {new}: version {made.info.version}, {made.info.facts} facts, digest "
            f"{shorten(made.digest)}"
        )


def _switched(
    client: Client, name: str, new: str, update: Callable[[int, int], None], timeout: float
) -> ImportResult:
    """One try. Raises: FailedPrecondition, BANK_EDITED; nothing was changed."""
    with tempfile.TemporaryDirectory(prefix="larimar-switch-") as folder:
        reached = _brought_over(client, name, new)
        archive = Path(folder) / new
        client.export_bank(archive, bank=new, progress=update, timeout_s=timeout)
        made = client.import_bank(
            archive, bank=name, replaces=reached, progress=update, timeout_s=timeout
        )
    _compare(client, made, new)
    return made


def _brought_over(client: Client, name: str, new: str) -> int | None:
    """The version up to which the old bank is in the new one; None where it was deleted."""
    try:
        client.get_bank(name)
    except NotFound as error:
        if error.reason != "UNKNOWN_BANK":
            raise
        return None
    return client.reencode(name, new, timeout_s=TIMEOUT_S).info.version


def _compare(client: Client, made: ImportResult, new: str) -> None:
    if made.digest != client.digest(new).digest:
        raise DataLoss(
            f"bank {made.info.bank!r} is not {new!r}: keep {new!r}, and report it",
            "REENCODE_DIFFERS",
        )


def _encoder_digest(model: Path) -> str:
    from larimar.checkpoint import ModelFolder

    return ModelFolder.open(model).encoder_digest
