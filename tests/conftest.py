"""What tests share: the shipped model, loaded once."""

from __future__ import annotations

import os
import signal
from typing import Any

import hypothesis
import pytest
import torch

import larimar
from larimar.checkpoint import ModelFolder, serving_dtype
from larimar.decoder import Decoder
from larimar.encoder import Text
from larimar.scope import SentenceEmbedder
from larimar.v1 import larimar_pb2
from services.rpc import ObjectStub
from services.settings import DEFAULT_MODEL, Settings
from tests.congruence import conversation
from tests.decoding import PROMPTS
from tests.in_process import Pipeline, ServedPipeline, Weights, new_bank_name

hypothesis.settings.register_profile(
    "suite",
    deadline=None,
    derandomize="LARIMAR_CHAOS_ROUNDS" not in os.environ,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("suite")
"""No example is timed, for a busy machine is slow, and every run has the same examples: only
`make chaos` draws new ones."""

# A shell that starts the suite in the background has it ignore SIGINT, and all that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


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


@pytest.fixture(scope="session")
def pipeline(weights: Weights) -> Pipeline:
    """Real services over a log in this process."""
    return Pipeline(weights)


@pytest.fixture(scope="session")
def gateway(pipeline: Pipeline) -> ObjectStub:
    """The door to a gateway over the pipeline's objects."""
    return pipeline.gateway()


@pytest.fixture
async def bank(gateway: ObjectStub) -> str:
    """A bank of the test's own."""
    name = new_bank_name()
    await gateway.CreateBank(larimar_pb2.CreateBankRequest(bank=name))
    return name


@pytest.fixture(scope="session")
def decoder(weights: Weights) -> Decoder:
    """The shipped decoder."""
    return weights.decoder


@pytest.fixture(scope="session")
def latents(weights: Weights) -> torch.Tensor:
    """A latent for each of `tests.decoding.PROMPTS`."""
    texts = [Text(prompt, "Tarsin") for prompt in PROMPTS]
    return torch.from_numpy(weights.encoder.values(texts)).to(weights.dtype)
