"""The shipped model with another encoder, as a folder: for what happens when a model changes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from safetensors.torch import load_file, save_file

from services.settings import DEFAULT_MODEL

ENCODER = "encoder.safetensors"


def model_of_another_encoder(folder: Path) -> Path:
    """A model folder whose encoder's weights, and so its digest, are not the shipped one's."""
    folder.mkdir()
    for file in DEFAULT_MODEL.iterdir():
        if file.name not in (ENCODER, "config.json"):
            (folder / file.name).symlink_to(file)
    weights = load_file(DEFAULT_MODEL / ENCODER)
    save_file({name: tensor * 0.9 for name, tensor in weights.items()}, folder / ENCODER)
    document = json.loads((DEFAULT_MODEL / "config.json").read_text())
    document["sha256"][ENCODER] = hashlib.sha256((folder / ENCODER).read_bytes()).hexdigest()
    (folder / "config.json").write_text(json.dumps(document))
    return folder
