"""Where a pipeline runs: the only place that reads the environment."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from larimar.errors import InvalidArgument

CHECKOUT = Path(__file__).resolve().parent.parent
DEFAULT_MODEL = CHECKOUT / "models" / "larimar-small"
SERVICE_NAMES = ("encoder", "scope", "memory", "decoder", "gateway")
RATED = ("edit", "ask", "read", "import")
"""Of what a tenant has a rate each."""


def bad_settings(why: str) -> InvalidArgument:
    """The error of settings that cannot be."""
    return InvalidArgument(f"bad settings: {why}", "BAD_SETTINGS")


@dataclasses.dataclass(frozen=True)
class ServiceSettings:
    """Placement of one service.

    Raises:
        InvalidArgument: BAD_SETTINGS, the numbers do not fit each other.
    """

    replicas: int = 1
    """Replicas that Ray Serve keeps running; with `max_replicas`, the fewest."""
    max_replicas: int = 0
    """Replicas up to which load raises them; 0 keeps `replicas`. The gateway has none: its calls
    come to its own port, where Serve does not count them."""
    target_ongoing: float = 8.0
    """Calls in progress for each replica that load is measured by: above, replicas are added."""
    scale_up_s: float = 10.0
    """Time over which load is averaged, and that it must last before a replica is added."""
    scale_down_s: float = 300.0
    """Time that load must stay low before a replica is taken away: loading weights costs more."""
    gpus: float = 0.0
    """Share of a GPU for each replica; 0 runs on the CPU."""
    cpus: float = 0.0
    """Ray CPU slots for each replica; 0 leaves sharing to the operating system. On several nodes
    give it more: Ray spreads replicas, and adds nodes, by what they ask for."""
    resource: str = ""
    """Custom Ray resource of which each replica takes one: only nodes that offer it have one."""
    max_ongoing: int = 64
    """Calls that a replica works on at once."""
    max_queued: int = 256
    """Calls that may wait for a replica; one more is RESOURCE_EXHAUSTED."""

    def __post_init__(self) -> None:
        if self.replicas < 1 or (self.max_replicas and self.max_replicas < self.replicas):
            raise bad_settings(
                f"replicas is {self.replicas} and max_replicas {self.max_replicas}: give at least "
                "one replica, and a max_replicas that is 0 or not below it"
            )
        if min(self.target_ongoing, self.scale_up_s, self.scale_down_s) <= 0:
            raise bad_settings("target_ongoing, scale_up_s and scale_down_s must be above 0")

    @property
    def scales(self) -> bool:
        """Whether load changes the number of replicas."""
        return self.max_replicas > self.replicas


@dataclasses.dataclass(frozen=True)
class TenantLimits:
    """What one tenant may do and hold; 0 sets no limit of its own."""

    edits_per_s: float = 5_000.0
    """Edits a second, each of a batch counted: above what one machine's encoder takes."""
    edit_burst: int = 50_000
    """Edits at once after a pause: a file of facts."""
    asks_per_s: float = 1_000.0
    """Questions a second, scores, recalls and dreams too: above what one decoder answers."""
    ask_burst: int = 10_000
    """Questions at once after a pause."""
    reads_per_s: float = 50_000.0
    """Facts, events, changes and dead letters listed, searched through, watched or exported in a
    second: above what one memory replica gives."""
    read_burst: int = 500_000
    """The same at once after a pause: a whole bank."""
    imports_per_s: float = 20_000.0
    """Entries of logs imported or re-encoded in a second: above what one store takes."""
    import_burst: int = 200_000
    """The same at once after a pause."""
    banks: int = 0
    """Banks that it may have."""
    bank_facts: int = 0
    """Live facts of each of its banks."""
    tenant_facts: int = 0
    """Live facts of all its banks together."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 0:
                raise InvalidArgument(
                    f"the limit {field.name} is negative: 0 sets none", "BAD_SETTINGS"
                )
        for kind in RATED:
            if getattr(self, f"{kind}s_per_s") and not getattr(self, f"{kind}_burst"):
                raise InvalidArgument(
                    f"{kind}s_per_s is set and {kind}_burst is 0: no {kind} could be made",
                    "BAD_SETTINGS",
                )

    def rate(self, kind: str) -> tuple[float, int]:
        """What comes in a second, and at once after a pause, of a kind of `RATED`."""
        return getattr(self, f"{kind}s_per_s"), getattr(self, f"{kind}_burst")


@dataclasses.dataclass(frozen=True)
class Settings:
    """A whole pipeline."""

    data_dir: str = ".larimar"
    """Folder of the embedded store, logs and process files."""
    host: str = "127.0.0.1"
    """Interface of the public ports."""
    host_names: tuple[str, ...] = ()
    """Names that the HTTP port may be called by; empty: any, but only this machine's own where
    `host` is of it alone and no key is asked for."""
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
    threads: int = 1
    """Threads of each service's tensor library; the services share the machine's cores, and the
    threads of one wait for each other at every operation (docs/operations.md, "Scale")."""
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
    audit_dir: str = ""
    """Folder of the audit log; empty: audit in data_dir. Gateways on several machines share one."""
    audit_mb: int = 1024
    """Size of that folder, in MiB, past which its oldest files go; 0 keeps no audit log."""
    limits: TenantLimits = TenantLimits()
    """What every tenant may do and hold."""
    tenant_limits: dict[str, TenantLimits] = dataclasses.field(default_factory=dict)
    """The same of single tenants, by name, where it differs."""
    log_level: str = "warning"
    """Least level of what is logged: debug, info (every call of the gateway), warning or error."""
    otlp_endpoint: str = ""
    """Collector that spans go to by OTLP over HTTP, such as one at port 4318; empty sends none."""
    traces_file: str = ""
    """File that spans are appended to, a JSON line each, for `larimar trace`; empty keeps none."""
    trace_sample: float = 1.0
    """Share of the traces that begin here which are recorded; a caller's decision is kept."""
    encoder: ServiceSettings = ServiceSettings()
    scope: ServiceSettings = ServiceSettings()
    memory: ServiceSettings = ServiceSettings()
    decoder: ServiceSettings = ServiceSettings()
    gateway: ServiceSettings = ServiceSettings()

    def limits_of(self, tenant: str) -> TenantLimits:
        """What a tenant may do and hold."""
        return self.tenant_limits.get(tenant, self.limits)

    def to_json(self) -> str:
        """As one line of JSON."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Settings:
        """The settings of `to_json`. Raises: InvalidArgument, naming an unknown field."""
        try:
            raw = json.loads(text)
            services: dict[str, Any] = {
                name: ServiceSettings(**raw.pop(name, {})) for name in SERVICE_NAMES
            }
            for name in ("host_names", "inbox_tenants"):
                if isinstance(raw.get(name), str):
                    raise TypeError(f"{name} is a list of names")
                if name in raw:
                    raw[name] = tuple(raw[name])
            limits = TenantLimits(**raw.pop("limits", {}))
            raw["tenant_limits"] = {
                tenant: dataclasses.replace(limits, **given)
                for tenant, given in raw.get("tenant_limits", {}).items()
            }
            return cls(**raw, limits=limits, **services)
        except (TypeError, ValueError, AttributeError) as error:
            raise bad_settings(str(error)) from error

    def __post_init__(self) -> None:
        if self.gateway.scales:
            raise bad_settings(
                "load cannot raise the gateway's replicas: leave its max_replicas at 0"
            )

    @classmethod
    def read(cls, path: str | Path) -> Settings:
        """The settings in a JSON file. Raises: InvalidArgument, when it is missing or bad."""
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise bad_settings(f"cannot read {path}: {error}") from None

    @property
    def metrics_folder(self) -> Path:
        """Where the processes of this machine keep their metrics while the pipeline runs."""
        return Path(self.data_dir) / "metrics"


def default_settings() -> Settings:
    """Settings from the environment: LARIMAR_SETTINGS (a JSON file), and where the store is.

    Raises:
        InvalidArgument: BAD_SETTINGS.
    """
    path = os.environ.get("LARIMAR_SETTINGS", "")
    settings = with_store(Settings.read(path) if path else Settings())
    server = os.environ.get("LARIMAR_REDIS_SERVER", "")
    return dataclasses.replace(settings, redis_server=server) if server else settings


def with_store(settings: Settings) -> Settings:
    """The settings with the store's address of LARIMAR_REDIS_URL, where they name none.

    So the store's password can come from a secret, and be in no file and in no cluster's state.
    """
    url = settings.redis_url or os.environ.get("LARIMAR_REDIS_URL", "")
    return dataclasses.replace(settings, redis_url=url)


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
        "PROMETHEUS_MULTIPROC_DIR": str(settings.metrics_folder),
        "PYTHONPATH": str(CHECKOUT),
    }
