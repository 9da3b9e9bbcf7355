"""The composition root: the five services as Ray Serve deployments. The only file that imports ray.

Services are plain classes; here each is wrapped in a deployment that builds it in its
replica. The gateway's replica opens its own gRPC server on the public port and calls the
others through handles with Serve's gRPC transport.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException

from larimar.errors import LarimarError, ResourceExhausted, Unavailable
from services.build import SERVICES, build_edge, build_service, prepare_process
from services.contracts import STREAMING, methods_of
from services.observability.calls import calling
from services.run import die_with_parent
from services.settings import ServiceSettings, Settings, with_store

APP = "larimar"
HEALTH_PERIOD_S = 1.0
"""Time between health checks: a killed replica is noticed within it."""
DRAIN_S = 10.0
"""Time that a replica's calls in progress have when it is replaced: most texts end within it."""
OBJECT_STORE_BYTES = 80 * 2**20
"""Ray's object store, which our messages do not use: its least useful size."""


class HandleStub:
    """The door to a deployment: looks like a generated stub, raises domain errors."""

    def __init__(self, handle: Any, name: str) -> None:
        self._handle = handle.options(_by_reference=False)
        self._streams = handle.options(_by_reference=False, stream=True)
        self._name = name

    def __getattr__(self, method: str) -> Callable[..., Any]:
        return functools.partial(self._stream if method in STREAMING else self._single, method)

    async def _single(self, method: str, request):
        with calling(self._name, method, request):
            try:
                return await getattr(self._handle, method).remote(request)
            except Exception as error:
                raise handle_error(error, self._name) from None

    async def _stream(self, method: str, request) -> AsyncIterator[Any]:
        with calling(self._name, method, request):
            replies = getattr(self._streams, method).remote(request)
            try:
                async for reply in replies:
                    yield reply
            except Exception as error:
                raise handle_error(error, self._name) from None
            finally:
                replies.cancel()  # Ray lets one that is merely dropped work on to its end


def handle_error(error: Exception, name: str) -> Exception:
    """The domain error of a failed call through a handle."""
    if isinstance(error, LarimarError):
        return error
    if isinstance(error, RayTaskError) and isinstance(error.cause, LarimarError):
        return error.cause
    if isinstance(error, BackPressureError):
        return ResourceExhausted(f"the {name} service is full: retry later", "QUEUE_FULL")
    down = (RayActorError, RayServeException, ConnectionError)
    if isinstance(error, down) or type(error).__name__ == "AioRpcError":
        return Unavailable(f"the {name} service does not answer: retry", "SERVICE_DOWN")
    if isinstance(error, RayError) and not isinstance(error, RayTaskError):
        return Unavailable(f"the {name} service does not answer: retry", "SERVICE_DOWN")
    return error


class _Replica:
    """A service in a replica: built here, then every method is the service's own."""

    def __init__(self, name: str, settings_json: str) -> None:
        settings = with_store(Settings.from_json(settings_json))
        prepare_process(name, settings)
        placement = getattr(settings, name)
        if placement.gpus:
            import torch

            torch.cuda.set_per_process_memory_fraction(min(1.0, placement.gpus))
        self._service = build_service(name, settings)


def _method(name: str):
    async def call(self, request, grpc_context=None):
        return await getattr(self._service, name)(request, grpc_context)

    async def stream(self, request, grpc_context=None):
        replies = getattr(self._service, name)(request, grpc_context)
        async with contextlib.aclosing(replies):
            async for reply in replies:
                yield reply

    method = stream if name in STREAMING else call
    method.__name__ = name
    return method


def _replica_class(name: str) -> type:
    methods = {method: _method(method) for method in methods_of(name)}
    return type(name.capitalize(), (_Replica,), methods)


class _Gateway:
    """The gateway in a replica, with a gRPC server of its own on the public port."""

    async def __init__(self, settings_json: str, **handles) -> None:
        settings = with_store(Settings.from_json(settings_json))
        prepare_process("gateway", settings)
        stubs: dict[str, Any] = {name: HandleStub(handle, name) for name, handle in handles.items()}
        self._edge = build_edge(settings, stubs, settings.gateway.replicas)
        # Replicas share the port; services/up.py keeps it for this pipeline.
        await self._edge.start(f"{settings.host}:{settings.port}", share_port=True)

    async def __del__(self) -> None:
        """Called once by Ray Serve before the replica ends: gives the inboxes' leases back."""
        await self._edge.stop()

    async def pid(self) -> int:
        """Process of this replica."""
        return os.getpid()


def _deployed(target: type, name: str, placement: ServiceSettings):
    return serve.deployment(
        target,
        name=name,
        **_replicas(placement),
        ray_actor_options={
            "num_cpus": placement.cpus,
            "num_gpus": placement.gpus,
            "resources": {placement.resource: 1} if placement.resource else {},
        },
        max_ongoing_requests=placement.max_ongoing,
        max_queued_requests=placement.max_queued,
        health_check_period_s=HEALTH_PERIOD_S,
        graceful_shutdown_timeout_s=DRAIN_S,
        max_surge_percent=100,  # a replacement loads its weights while the old replica serves
    )


def _replicas(placement: ServiceSettings) -> dict[str, Any]:
    """How many replicas: a number, or what load makes of it."""
    if not placement.scales:
        return {"num_replicas": placement.replicas}
    scaling = {
        "min_replicas": placement.replicas,
        "max_replicas": placement.max_replicas,
        "target_ongoing_requests": placement.target_ongoing,
        "look_back_period_s": placement.scale_up_s,
        "upscale_delay_s": placement.scale_up_s,
        "downscale_delay_s": placement.scale_down_s,
    }
    return {"autoscaling_config": scaling}


def application(settings: Settings):
    """The bound Serve application of a pipeline."""
    text = settings.to_json()
    nodes = {
        name: _deployed(_replica_class(name), name, getattr(settings, name)).bind(name, text)
        for name in SERVICES
    }
    return _deployed(_Gateway, "gateway", settings.gateway).bind(text, **nodes)


def from_config(args: dict[str, Any]):
    """The application of a Serve config file, whose import path is services.app:from_config.

    Args:
        args: "settings", a JSON file on every node; fields of Settings, which take precedence;
            "generation", of which any other value deploys anew, to read the file again.

    Raises:
        InvalidArgument: BAD_SETTINGS.
    """
    fields = dict(args)
    fields.pop("generation", None)
    path = fields.pop("settings", "")
    known = json.loads(Settings.read(path).to_json()) if path else {}
    for name, value in fields.items():
        held = known.get(name)
        known[name] = {**held, **value} if isinstance(held, dict) else value
    return application(Settings.from_json(json.dumps(known)))


def start(settings: Settings) -> None:
    """Starts a Ray cluster of our own and deploys. Raises: Unavailable, when that fails."""
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    logging.getLogger("ray").setLevel(logging.ERROR)
    ray.init(
        address="local",
        num_cpus=max(2, os.cpu_count() or 2),
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    serve.start(
        proxy_location="Disabled",
        logging_config={"log_level": "ERROR", "enable_access_log": False},
    )
    deploy(settings)


def deploy(settings: Settings) -> None:
    """Runs the application, in the place of the one that runs: each new replica first loads, then
    takes an old one's place.

    Raises:
        Unavailable: a replica does not start; those that ran still do.
    """
    try:
        serve.run(application(settings), name=APP, route_prefix=None)
    except RuntimeError as error:
        raise Unavailable(f"the pipeline did not start: {error}", "SERVICE_DOWN") from error


def stop() -> None:
    """Takes the application and the cluster down."""
    with contextlib.suppress(Exception):
        serve.shutdown()
    ray.shutdown()


def obey(settings: Settings) -> None:
    """Deploys the settings of each further line on standard input; a line of JSON answers each."""
    for line in sys.stdin:
        try:
            wanted = Settings.from_json(json.loads(line)["settings"])
            deploy(wanted)
            settings, error = wanted, ""
        except LarimarError as failure:
            error = failure.message
            with contextlib.suppress(LarimarError):
                deploy(settings)
        print(json.dumps({"error": error}), flush=True)


def _stop_on_signals(stopping: threading.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())


def main() -> int:
    """Serves until SIGTERM: settings on standard input, one JSON line on output when up."""
    stopping = threading.Event()
    _stop_on_signals(stopping)
    die_with_parent()
    settings = Settings.from_json(json.loads(sys.stdin.readline())["settings"])
    try:
        start(settings)
        _stop_on_signals(stopping)  # in the place of Ray's handlers, which print a stack first
        print(json.dumps({"service": "ray", "pid": os.getpid(), "port": settings.port}), flush=True)
        threading.Thread(target=obey, args=(settings,), daemon=True).start()
        stopping.wait()
    except LarimarError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 1
    finally:
        stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
