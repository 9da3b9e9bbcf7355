"""What tests share: the shipped model, loaded once."""

from __future__ import annotations

import pytest
import torch

from larimar.checkpoint import ModelFolder, serving_dtype
from larimar.scope import SentenceEmbedder
from services.settings import DEFAULT_MODEL, Settings
from tests.pipelines import Weights


@pytest.fixture(scope="session")
def weights() -> Weights:
    """The shipped model as services load it, with as many threads as they have."""
    torch.set_num_threads(Settings().threads)
    folder, dtype = ModelFolder.open(DEFAULT_MODEL), serving_dtype()
    return Weights(
        folder,
        folder.encoder(dtype),
        SentenceEmbedder(folder.config.scope.package, dtype),
        folder.decoder(dtype),
        dtype,
    )
