"""Builds each service from settings; Ray, separate processes and tests all build here."""

from __future__ import annotations

import logging
from typing import Any

from larimar.errors import FailedPrecondition
from services.settings import ServiceSettings, Settings

SERVICES = ("encoder", "scope", "memory", "decoder")
"""The services behind the gateway."""


def prepare_process(name: str, settings: Settings) -> None:
    """Sets up logging and, where a model is loaded, tensor threads of a service's process."""
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    if name != "memory":  # which comes back sooner without loading torch for a slots bank
        import torch

        torch.set_num_threads(settings.threads)
        torch.set_grad_enabled(False)


def device_of(placement: ServiceSettings) -> str:
    """Where a service's network runs: a GPU when it has a share of one.

    Raises:
        FailedPrecondition: it has a share, and there is no GPU.
    """
    if not placement.gpus:
        return "cpu"
    import torch

    if not torch.cuda.is_available():
        raise FailedPrecondition(
            "the settings give a service a share of a GPU, and this machine has none that torch "
            "can use: set its gpus to 0",
            "NO_GPU",
        )
    return "cuda"


def build_encoder(settings: Settings) -> Any:
    """The encoder service."""
    from larimar.checkpoint import ModelFolder, serving_dtype
    from services.encoder.service import EncoderService

    folder = ModelFolder.open(settings.model)
    device = device_of(settings.encoder)
    return EncoderService(folder, folder.encoder(serving_dtype(device), device))


def build_scope(settings: Settings) -> Any:
    """The scope service."""
    from larimar.checkpoint import ModelFolder, serving_dtype
    from larimar.scope import SentenceEmbedder
    from services.follower import Follower
    from services.scope.service import ScopeService

    config = ModelFolder.open(settings.model).config
    device = device_of(settings.scope)
    embedder = SentenceEmbedder(config.scope.package, serving_dtype(device), device)
    follower = Follower(_log(settings), ("scope",), settings.state_budget_mb * 2**20)
    return ScopeService(embedder, follower, config.scope.threshold, config.fixed_point.scope_bits)


def build_memory(settings: Settings) -> Any:
    """The memory service."""
    from services.follower import Follower
    from services.memory.service import MemoryService

    log = _log(settings)
    follower = Follower(
        log,
        ("memory", "scope"),
        settings.state_budget_mb * 2**20,
        settings.checkpoint_every,
    )
    return MemoryService(log, follower)


def build_decoder(settings: Settings) -> Any:
    """The decoder service."""
    from larimar.checkpoint import ModelFolder, serving_dtype
    from services.decoder.service import DecoderService

    folder = ModelFolder.open(settings.model)
    device = device_of(settings.decoder)
    return DecoderService(folder, folder.decoder(serving_dtype(device), device))


BUILDERS = {
    "encoder": build_encoder,
    "scope": build_scope,
    "memory": build_memory,
    "decoder": build_decoder,
}


def _log(settings: Settings) -> Any:
    from services.redis_log import RedisLog

    return RedisLog(settings.redis_url)
