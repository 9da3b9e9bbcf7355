"""`larimar up`: the embedded store and the pipeline in the foreground, supervised.

Writes up.json into the data directory when the pipeline answers, and removes it at the
end. Ends on SIGTERM or Ctrl-C, in order; a clear line on standard error says why it
could not start.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

from larimar.cli import processes
from larimar.errors import InvalidArgument, LarimarError, NotFound, Unavailable
from services.gateway.edge import server_credentials
from services.local import Pipeline, end_strays
from services.observability.logs import start_logging
from services.observability.process import check_observing
from services.private import port_held
from services.probe import ask_status
from services.redeploying import Redeployer
from services.settings import Settings, default_settings, quiet_environment
from services.store import EmbeddedStore

READY_TIMEOUT_S = 120.0
"""Time the started pipeline has until every service says it is ready."""
WATCH_PERIOD_S = 5.0
"""Time between two looks at whether the gateway answers."""
UNHEALTHY_S = 45.0
"""Time without an answer after which it is restarted: far above a replica's restart."""


FILES = ("tls_cert", "tls_key", "tls_client_ca", "traces_file")
"""Settings that name files."""


def _absolute(name: str) -> str:
    return str(Path(name).resolve()) if name else ""


def say(line: str) -> None:
    """A progress line for the person who waits."""
    print(line, file=sys.stderr, flush=True)


def check_port(host: str, port: int, option: str = "--port") -> None:
    """Raises: Unavailable, when something listens on the port already."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen()
        except OSError as error:
            raise Unavailable(
                f"port {port} is in use: stop what listens there, or give another {option}",
                "PORT_IN_USE",
            ) from error


def check_model(folder: Path) -> None:
    """Raises: NotFound, before anything is started, when there is no model folder."""
    if not (folder / "config.json").is_file():
        raise NotFound(
            f"no model folder at {folder}: give --model a folder with a config.json, "
            "or train one with `larimar train`",
            "MODEL_NOT_FOUND",
        )


def wait_until_ready(data_dir: str) -> None:
    """Waits until every service answers. Raises: Unavailable."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    missing = "the gateway"
    while time.monotonic() < deadline:
        services = ask_status(data_dir)
        if services is not None:
            missing = ", ".join(one.name for one in services if not one.ready)
            if not missing:
                return
        time.sleep(0.1)
    raise Unavailable(f"not ready after {READY_TIMEOUT_S:.0f} s: {missing}", "SERVICE_DOWN")


def watch(data_dir: str, pipeline: Pipeline, stopping: threading.Event) -> None:
    """Until told to stop: restarts a gateway that has not answered for UNHEALTHY_S."""
    last_answer = time.monotonic()
    while not stopping.wait(WATCH_PERIOD_S):
        if ask_status(data_dir) is not None:
            last_answer = time.monotonic()
        elif time.monotonic() - last_answer > UNHEALTHY_S:
            say(f"the gateway has not answered for {UNHEALTHY_S:.0f} s: restarting it")
            pipeline.kick()
            last_answer = time.monotonic() + READY_TIMEOUT_S


def say_who_may_call(settings: Settings) -> None:
    """Says in a line what guards the public ports."""
    guards = []
    if settings.tls_cert:
        guards.append("TLS with client certificates" if settings.tls_client_ca else "TLS")
    if settings.require_keys:
        guards.append("API keys (`larimar key create`)")
        say(f"the public ports ask for {' and '.join(guards)}")
        return
    said = f"{' and '.join(guards)}, but no" if guards else "no"
    say(f"the public ports ask for {said} API keys: whoever reaches them may read and edit")


def _http_address(settings: Settings) -> str:
    if not settings.http_port:
        return ""
    return f", {'https' if settings.tls_cert else 'http'}://{settings.host}:{settings.http_port}"


def settled(settings: Settings, chosen: dict[str, Any]) -> Settings:
    """Settings with what the command line chose, and files by their whole names, checked.

    Raises:
        LarimarError: a file is missing or bad, or two settings do not go together.
    """
    settings = dataclasses.replace(settings, **chosen)
    settings = dataclasses.replace(
        settings,
        data_dir=str(Path(settings.data_dir).resolve()),
        model=str(Path(settings.model).resolve()),
        **{name: _absolute(getattr(settings, name)) for name in FILES},
    )
    check_model(Path(settings.model))
    check_observing(settings)
    server_credentials(settings)
    if settings.redis_replicas and not settings.redis_url:
        raise InvalidArgument(
            "redis_replicas asks replicas to confirm edits, and the embedded store has none: give "
            "--redis-url, or set it to 0",
            "BAD_SETTINGS",
        )
    return settings


def serve(settings: Settings, use_ray: bool, chosen: dict[str, Any]) -> None:
    """Runs a pipeline until a signal.

    Args:
        chosen: settings that the command line chose, which stay when it is deployed anew.

    Raises:
        LarimarError: it cannot start.
    """
    data_dir = Path(settings.data_dir)
    processes.refuse_second(data_dir)
    check_port(settings.host, settings.port)
    if settings.http_port:
        check_port(settings.host, settings.http_port, "--http-port")
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    with contextlib.ExitStack() as stack:
        stack.enter_context(port_held(settings.port, host=settings.host))
        if settings.http_port:
            stack.enter_context(port_held(settings.http_port, "--http-port", settings.host))
        store = None
        data_dir.mkdir(parents=True, exist_ok=True)
        start_logging("supervisor", settings, plain=True)
        if not settings.redis_url:
            store = EmbeddedStore(data_dir, settings.redis_server or None)
            store.start(lambda share: say(f"the store loads its log: {share:.0%}"))
            stack.callback(store.stop)
            store.supervise()
            if end_strays(settings.data_dir):
                say("ended what was left of an earlier pipeline of this data directory")
            settings = dataclasses.replace(settings, redis_url=store.url)
            say(f"store is up (pid {store.pid})")
        environment = {**os.environ, **quiet_environment(settings)}
        pipeline = Pipeline(settings, use_ray, environment, say)
        stack.callback(pipeline.stop)
        say_who_may_call(settings)
        pipeline.start()
        target = f"{settings.host}:{settings.port}"
        wait_until_ready(settings.data_dir)
        data_dir.mkdir(parents=True, exist_ok=True)
        up_file = data_dir / processes.UP_FILE
        document = {
            "pid": os.getpid(),
            "port": settings.port,
            "http_port": settings.http_port,
            "started_at": time.time(),
            "mode": "ray" if use_ray else "no-ray",
            "guarded": bool(settings.require_keys or settings.tls_cert),
            "host": settings.host,
            "require_keys": settings.require_keys,
            "tls": bool(settings.tls_cert),
            "model": settings.model,
            "store_pid": store.pid if store else None,
            "pids": pipeline.pids,
        }
        (data_dir / processes.REDEPLOY_FILE).unlink(missing_ok=True)
        processes.leave(up_file, document)
        stack.callback(up_file.unlink, missing_ok=True)
        redeployer = Redeployer(settings, pipeline, chosen, settled, say)
        threading.Thread(target=redeployer.run, args=(stopping,), daemon=True).start()
        say(f"ready on {target}{_http_address(settings)}")
        watch(settings.data_dir, pipeline, stopping)
        say("stopping")


def main() -> int:
    """Parses arguments, serves, and says in one line why it could not."""
    parser = argparse.ArgumentParser(prog="larimar up")
    parser.add_argument("--data-dir", default=None)
    parser.add_argument("--host", default=None)
    parser.add_argument("--port", type=int, default=None)
    parser.add_argument("--http-port", type=int, default=None)
    parser.add_argument("--redis-url", default=None)
    parser.add_argument("--model", default=None)
    parser.add_argument("--require-keys", action="store_true", default=None)
    parser.add_argument("--tls-cert", default=None)
    parser.add_argument("--tls-key", default=None)
    parser.add_argument("--tls-client-ca", default=None)
    parser.add_argument("--no-ray", action="store_true")
    arguments = vars(parser.parse_args())
    use_ray = not arguments.pop("no_ray")
    chosen = {name: value for name, value in arguments.items() if value is not None}
    try:
        serve(settled(default_settings(), chosen), use_ray, chosen)
    except LarimarError as error:
        say(f"error: {error.message}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
