"""Commands about model folders: import-reference."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from larimar.cli.console import AsJson, emit, say

STORED_DTYPES = ("bfloat16", "float32", "float16", "int8")


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command(
        name="import-reference",
        epilog="Example: larimar import-reference larimar.ckpt --encoder bert-large-cased "
        "--decoder gpt2-large --out FOLDER",
    )(import_reference_checkpoint)


def import_reference_checkpoint(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="A Lightning file of the reference code.")
    ],
    encoder: Annotated[str, typer.Option(help="Name or folder of the encoder it was trained on.")],
    decoder: Annotated[str, typer.Option(help="Name or folder of the decoder it was trained on.")],
    out: Annotated[Path, typer.Option(help="Folder to write; it must be new or empty.")],
    dtype: Annotated[
        str, typer.Option(help=f"What weights are stored in: {', '.join(STORED_DTYPES)}.")
    ] = "bfloat16",
    shard_mb: Annotated[
        int, typer.Option(min=1, help="Largest file of weights, in megabytes.")
    ] = 2000,
    as_json: AsJson = False,
) -> None:
    """Makes a model folder of a published checkpoint of the paper's reference code."""
    if dtype not in STORED_DTYPES:
        raise typer.BadParameter(
            f"{dtype!r} is none of {', '.join(STORED_DTYPES)}", param_hint="--dtype"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise typer.BadParameter(f"{out} exists and is not an empty folder", param_hint="--out")
    import torch

    from larimar.reference import import_reference

    found = import_reference(
        checkpoint, encoder, decoder, out, getattr(torch, dtype), shard_mb * 10**6
    )
    latent = found.config.latent
    if as_json:
        emit(
            {
                "folder": str(out),
                "value_size": latent.value_size,
                "slots": found.slots,
                "log_variance": found.logvar_kind,
            }
        )
        return
    say(
        f"{out}: a model with latents of {latent.value_size}; the checkpoint's own memory of "
        f"{found.slots} slots (log-variance by {found.logvar_kind}) is kept beside the weights"
    )
