"""Commands that bring a bank over to another model: reencode, bank switch."""

from __future__ import annotations

import tempfile
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
from larimar.results import BankInfo, ImportResult

if TYPE_CHECKING:
    from larimar.client import Client

TIMEOUT_S = 24 * 3600.0
"""A bank of a million facts takes hours to encode; the commands go on where they were left."""

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

    For a pause in which nobody edits or asks NAME. A command that was cut off is run again.
    """
    with (
        connect(target, timeout) as client,
        progressing(f"switching {name}", as_json) as update,
        tempfile.TemporaryDirectory(prefix="larimar-switch-") as folder,
    ):
        old = _brought_over(client, name, new)
        archive = Path(folder) / new
        client.export_bank(archive, bank=new, progress=update, timeout_s=timeout)
        if old is not None:
            _delete(client, old)
        made = client.import_bank(archive, bank=name, progress=update, timeout_s=timeout)
        _compare(client, made, new)
    if as_json:
        emit({**bank_json(made.info), "digest": made.digest})
    else:
        say(
            f"bank {name} is {new}: version {made.info.version}, {made.info.facts} facts, digest "
            f"{shorten(made.digest)}"
        )


def _brought_over(client: Client, name: str, new: str) -> BankInfo | None:
    """The old bank, once all of it is in the new one; None where it was deleted already."""
    try:
        old = client.get_bank(name)
    except NotFound as error:
        if error.reason != "UNKNOWN_BANK":
            raise
        return None
    behind = client.reencode(name, new, timeout_s=TIMEOUT_S).info.version - old.version
    if behind:
        raise _edited(name)
    return old


def _delete(client: Client, old: BankInfo) -> None:
    if client.get_bank(old.bank).version != old.version:
        raise _edited(old.bank)
    client.delete_bank(old.bank)


def _edited(name: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"bank {name!r} is edited while it is switched: stop that, then switch again; nothing was "
        "deleted",
        "BANK_EDITED",
    )


def _compare(client: Client, made: ImportResult, new: str) -> None:
    if made.digest != client.digest(new).digest:
        raise DataLoss(
            f"bank {made.info.bank!r} is not {new!r}: keep {new!r}, and report it",
            "REENCODE_DIFFERS",
        )


def _encoder_digest(model: Path) -> str:
    from larimar.checkpoint import ModelFolder

    return ModelFolder.open(model).encoder_digest
