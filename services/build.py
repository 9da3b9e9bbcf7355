"""Builds each service from settings; Ray, separate processes and tests all build here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from larimar.errors import FailedPrecondition
from services.settings import ServiceSettings, Settings

WARM_EVERY_S = 0.5
"""Between two looks of a follower at the logs of the banks in use."""
LEDGER_NAME = "erase-ledger.jsonl"
"""The erase ledger in the data directory, where the settings name no other file."""
SERVICES = ("encoder", "scope", "memory", "decoder")
"""The services behind the gateway."""


def prepare_process(name: str, settings: Settings) -> None:
    """Sets up what a service's process says of itself and, where a model is loaded, tensor threads.

    Memory loads no torch before a bank needs it, so that it comes back sooner; the gateway never.
    """
    from services.observability.process import observe_process

    observe_process(name, settings)
    if name not in ("memory", "gateway"):
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


def build_service(name: str, settings: Settings) -> Any:
    """A service behind the gateway, observed."""
    from services.observability.serving import Observed

    return Observed(name, BUILDERS[name](settings))


def build_encoder(settings: Settings) -> Any:
    """The encoder service."""
    from larimar.checkpoint import ModelFolder
    from services.encoder.service import EncoderService
    from services.observability.metrics import serves_model

    folder = ModelFolder.open(settings.model)
    device = device_of(settings.encoder)
    serves_model("encoder", folder.encoder_digest)
    return EncoderService(folder, folder.encoder(device=device))


def build_scope(settings: Settings) -> Any:
    """The scope service."""
    from larimar.checkpoint import ModelFolder, serving_dtype
    from larimar.scope import ScopeDetector, SentenceEmbedder
    from services.observability.metrics import serves_model
    from services.scope.service import ScopeService

    folder = ModelFolder.open(settings.model)
    device = device_of(settings.scope)
    embedder = SentenceEmbedder(folder.config.scope.package, serving_dtype(device), device)
    detector = ScopeDetector.open(folder, embedder, settings.detector)
    follower = _follower(settings, "scope")
    serves_model("scope", embedder.digest)
    return ScopeService(embedder, follower, detector, folder.config.fixed_point.scope_bits)


def build_memory(settings: Settings) -> Any:
    """The memory service."""
    from services.memory.ledger import EraseLedger
    from services.memory.service import MemoryService

    follower = _follower(settings, "memory")
    ledger = settings.erase_ledger or Path(settings.data_dir) / LEDGER_NAME
    return MemoryService(follower.log, follower, _inbox(settings), EraseLedger(Path(ledger)))


def _follower(settings: Settings, part: str) -> Any:
    from services.follower import Follower

    return Follower(
        _log(settings),
        (part,),
        settings.state_budget_mb * 2**20,
        settings.checkpoint_every,
        WARM_EVERY_S,
    )


def build_decoder(settings: Settings) -> Any:
    """The decoder service."""
    from larimar.checkpoint import ModelFolder
    from services.decoder.service import DecoderService
    from services.observability.metrics import serves_model

    folder = ModelFolder.open(settings.model)
    device = device_of(settings.decoder)
    serves_model("decoder", folder.model_digest)
    return DecoderService(folder, folder.decoder(device=device))


def build_edge(settings: Settings, doors: dict[str, Any]) -> Any:
    """The gateway with its port and the consumers of the inboxes.

    Args:
        doors: by service, a stub of services/rpc.py.
    """
    from services.gateway.condition import Condition
    from services.gateway.edge import Edge
    from services.gateway.service import GatewayService
    from services.observability.serving import Observed

    gateway = GatewayService(**doors)
    inbox = gateway.inbox = _inbox(settings)
    gateway.condition = Condition(gateway, inbox, settings)
    keys = _keys(settings) if settings.require_keys else None
    return Edge(Observed("gateway", gateway), settings, keys)


BUILDERS = {
    "encoder": build_encoder,
    "scope": build_scope,
    "memory": build_memory,
    "decoder": build_decoder,
}


def _log(settings: Settings) -> Any:
    from services.redis_log import RedisLog

    return RedisLog(settings.redis_url, replicas=settings.redis_replicas)


def _inbox(settings: Settings) -> Any:
    from services.redis_inbox import RedisInbox

    return RedisInbox(settings.redis_url)


def _keys(settings: Settings) -> Any:
    from services.redis_keys import RedisKeys

    return RedisKeys(settings.redis_url)
