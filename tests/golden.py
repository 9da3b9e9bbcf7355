"""Where the golden numbers are: files made by the paper's reference code and by an oracle."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent


def golden_folder() -> Path | None:
    """LARIMAR_GOLDEN, else ../shared/golden beside the checkout; None where there is neither."""
    named = os.environ.get("LARIMAR_GOLDEN")
    folder = Path(named) if named else ROOT.parent / "shared" / "golden"
    return folder if folder.is_dir() else None


def golden_path(name: str) -> Path:
    """The golden file of this name; skips the test, saying why, where it is absent."""
    folder = golden_folder()
    if folder is None:
        pytest.skip("no golden files: set LARIMAR_GOLDEN to their folder")
    path = folder / name
    if not path.is_file():
        pytest.skip(f"no golden file {path.name} in {folder}")
    return path


def golden_arrays(name: str) -> dict[str, np.ndarray]:
    """The arrays of a golden .npz file."""
    with np.load(golden_path(name)) as arrays:
        return {key: arrays[key] for key in arrays.files}
