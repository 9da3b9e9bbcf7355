"""What tests share: the shipped model, loaded once."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import larimar
from larimar.checkpoint import ModelFolder, serving_dtype
from larimar.scope import SentenceEmbedder
from services.settings import DEFAULT_MODEL, Settings
from tests.congruence import conversation
from tests.in_process import ServedPipeline, Weights


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


@pytest.fixture(scope="session")
def conversation_over_objects(weights: Weights) -> list[tuple[str, Any]]:
    """What a pipeline of objects in this process says: what every other door is held to."""
    with ServedPipeline(weights, "objects") as served, larimar.connect(served.target) as client:
        return conversation(client)
