"""The decoder of a model folder as a plain Hugging Face folder, for tools that know nothing of us.

What is written is the plain decoder: the language model without connector, encoder or memory.
`transformers` loads it as any other causal language model.
"""

from __future__ import annotations

from pathlib import Path

import torch

from larimar.checkpoint import ModelFolder
from larimar.errors import InvalidArgument


def export_decoder(
    folder: ModelFolder, out: str | Path, dtype: torch.dtype = torch.float32
) -> list[str]:
    """Writes the decoder and its tokenizer to a new or empty folder; gives the files' names.

    Args:
        dtype: what the weights are stored in.

    Raises:
        NotFound, InvalidArgument: the model folder is incomplete or damaged, or `out` holds files.
    """
    target = Path(out)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InvalidArgument(f"{target} exists and is not an empty folder: give another one")
    lm = folder.networks().decoder.lm.to(dtype)
    lm.config.architectures = [type(lm).__name__]
    lm.save_pretrained(target)
    folder.decoder_tokenizer().save_pretrained(target)
    return sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file())
