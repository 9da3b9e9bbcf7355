"""Where a pipeline runs: the only place that reads the environment."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parent.parent
DEFAULT_MODEL = CHECKOUT / "models" / "larimar-small"


@dataclasses.dataclass(frozen=True)
class ServiceSettings:
    """Placement of one service."""

    replicas: int = 1
    """Replicas that Ray Serve keeps running."""
    gpus: float = 0.0
    """Share of a GPU for each replica; 0 runs on the CPU."""
    cpus: float = 0.0
    """Ray CPU slots for each replica; 0 leaves sharing to the operating system."""
    max_ongoing: int = 64
    """Calls that a replica works on at once."""
    max_queued: int = 256
    """Calls that may wait for a replica; one more is RESOURCE_EXHAUSTED."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """A whole pipeline."""

    data_dir: str = ".larimar"
    """Folder of the embedded store, logs and process files."""
    host: str = "127.0.0.1"
    """Interface of the public ports."""
    port: int = 9000
    """Public gRPC port."""
    http_port: int = 8000
    """Public HTTP port; 0 opens none."""
    redis_url: str = ""
    """Store to use instead of the embedded one: redis://, rediss:// or unix://."""
    redis_replicas: int = 0
    """Replicas of that store that must confirm an edit before it is acknowledged (WAIT)."""
    redis_server: str = ""
    """Server binary for the embedded store, when not the packaged one."""
    model: str = str(DEFAULT_MODEL)
    """Model folder."""
    detector: str = ""
    """What decides scope: esd or isd; empty takes the model's own."""
    threads: int = 2
    """Threads of each service's tensor library."""
    checkpoint_every: int = 2000
    """Events of a bank after which a follower saves a checkpoint."""
    state_budget_mb: int = 4096
    """Folded state that a memory or scope replica holds, in MiB, before it drops idle banks."""
    erase_ledger: str = ""
    """File of what was erased, kept outside of backups; empty: erase-ledger.jsonl in data_dir."""
    require_keys: bool = False
    """Whether calls on the public port need an API key; without, all are the tenant "default"."""
    tls_cert: str = ""
    """PEM file of the public port's certificate and its chain; empty serves in plain text."""
    tls_key: str = ""
    """PEM file of its private key."""
    tls_client_ca: str = ""
    """PEM file of the authorities whose client certificates are let in; empty asks for none."""
    inbox_tenants: tuple[str, ...] = ("default",)
    """Tenants whose inbox is consumed."""
    inbox_max_tries: int = 20
    """Tries of an inbox event that meets transient errors before it is a dead letter."""
    encoder: ServiceSettings = ServiceSettings()
    scope: ServiceSettings = ServiceSettings()
    memory: ServiceSettings = ServiceSettings()
    decoder: ServiceSettings = ServiceSettings()
    gateway: ServiceSettings = ServiceSettings()

    def to_json(self) -> str:
        """As one line of JSON."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Settings:
        """The settings of `to_json`. Raises: ValueError, naming an unknown or missing field."""
        raw = json.loads(text)
        names = ("encoder", "scope", "memory", "decoder", "gateway")
        try:
            services: dict[str, Any] = {
                name: ServiceSettings(**raw.pop(name, {})) for name in names
            }
            if "inbox_tenants" in raw:
                raw["inbox_tenants"] = tuple(raw["inbox_tenants"])
            return cls(**raw, **services)
        except TypeError as error:
            raise ValueError(f"bad settings: {error}") from error


def default_settings() -> Settings:
    """Settings from the environment: LARIMAR_SETTINGS (a JSON file) and LARIMAR_REDIS_SERVER."""
    path = os.environ.get("LARIMAR_SETTINGS", "")
    settings = Settings.from_json(Path(path).read_text()) if path else Settings()
    server = os.environ.get("LARIMAR_REDIS_SERVER", "")
    return dataclasses.replace(settings, redis_server=server) if server else settings


def quiet_environment(settings: Settings) -> dict[str, str]:
    """What child processes are started with: no network look-ups, no spinning threads."""
    return {
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": str(settings.threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "KMP_BLOCKTIME": "0",
        "TRANSFORMERS_VERBOSITY": "error",
        "GRPC_VERBOSITY": "ERROR",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_LOG_TO_STDERR": "0",
        "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
        "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(8 * 2**20),
        "RAY_DISABLE_IMPORT_WARNING": "1",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "PYTHONPATH": str(CHECKOUT),
    }
