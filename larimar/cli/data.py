"""Commands about data of evaluations: fetch; and the decoder for other tools: export-decoder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from larimar.cli.children import PASS_ON, become
from larimar.cli.console import AsJson, emit, say

data_app = typer.Typer(no_args_is_help=True, help="Data of the evaluations.")


@data_app.command(
    context_settings={**PASS_ON, "allow_interspersed_args": False},
    epilog="Example: larimar data fetch zsre-train-1k --out data",
)
def fetch(context: typer.Context) -> None:
    """Downloads public evaluation files. Needs a checkout; --json and all else go to it."""
    become("evaluation.fetch", context)


def register(app: typer.Typer) -> None:
    """Adds export-decoder."""
    app.command(
        name="export-decoder",
        epilog="Example: larimar export-decoder models/larimar-small --out FOLDER",
    )(export_decoder)


def export_decoder(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model folder.")],
    out: Annotated[Path, typer.Option(help="Folder to write; it must be new or empty.")],
    as_json: AsJson = False,
) -> None:
    """Writes a model's plain decoder as a Hugging Face folder, which other editors can edit."""
    from larimar import exports
    from larimar.checkpoint import ModelFolder

    files = exports.export_decoder(ModelFolder.open(model), out)
    if as_json:
        emit({"folder": str(out), "files": files})
        return
    say(f"{out}: the decoder as a Hugging Face model, {len(files)} files")
