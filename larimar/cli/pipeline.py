"""Commands about the pipeline itself: up, down, status."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from larimar.cli import processes
from larimar.cli.console import (
    CONNECT_TIMEOUT_S,
    DEFAULT_TARGET,
    INTERRUPTED,
    AsJson,
    Target,
    Timeout,
    connect,
    emit,
    note,
    print_table,
    say,
    shorten,
    working,
)
from larimar.errors import LarimarError, Unavailable

DataDir = Annotated[
    Path, typer.Option("--data-dir", file_okay=False, help="Where its log, files and pid are.")
]

TlsFile = Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="PEM file of TLS.")]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command(epilog="Example: larimar up --detach --port 9000 --data-dir .larimar")(up)
    app.command(epilog="Example: larimar down --data-dir .larimar")(down)
    app.command(epilog="Example: larimar redeploy --model models/larimar-small")(redeploy)
    app.command(epilog="Example: larimar status --json")(status)


def up(
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return when the pipeline answers.")
    ] = False,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Public gRPC port.")] = 9000,
    http_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Public HTTP port; 0 opens none.")
    ] = 8000,
    data_dir: DataDir = Path(".larimar"),
    redis_url: Annotated[
        str | None, typer.Option(help="A store to use in the place of the embedded one.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="A model's folder or name.")] = None,
    no_ray: Annotated[
        bool, typer.Option("--no-ray", help="Services without a Ray cluster.")
    ] = False,
    require_keys: Annotated[
        bool, typer.Option("--require-keys", help="Calls need an API key: see `larimar key`.")
    ] = False,
    tls_cert: TlsFile = None,
    tls_key: TlsFile = None,
    tls_client_ca: TlsFile = None,
    as_json: AsJson = False,
) -> None:
    """Starts the whole pipeline, and serves until Ctrl-C; with --detach, until `larimar down`."""
    root = processes.checkout_root()
    data_dir = data_dir.resolve()
    processes.refuse_second(data_dir)
    data_dir.mkdir(parents=True, exist_ok=True)
    command = ["--data-dir", str(data_dir), "--port", str(port)]
    command += ["--http-port", str(http_port)]
    if redis_url:
        command += ["--redis-url", redis_url]
    if model:
        command += ["--model", str(Path(model).resolve()) if Path(model).exists() else model]
    if no_ray:
        command += ["--no-ray"]
    if require_keys:
        command += ["--require-keys"]
    files = {"--tls-cert": tls_cert, "--tls-key": tls_key, "--tls-client-ca": tls_client_ca}
    for option, file in files.items():
        command += [option, str(file.resolve())] if file else []
    log = data_dir / processes.LOG_FILE if detach or as_json else None
    log_start = log.stat().st_size if log and log.exists() else 0
    with processes.asked_to_end() as ending:
        child = processes.start(command, root, log, detached=detach)
        if log:
            with working(f"starting the pipeline on port {port} (its log is {log})"):
                running = processes.wait_until_up(child, data_dir, log, log_start, _answers, ending)
            if running:
                _say_up(running, data_dir, as_json)
                if detach:
                    return
        while child.poll() is None:
            if ending.wait(processes.POLL_S):
                processes.stop(processes.Running(child.pid, port))
                raise typer.Exit(INTERRUPTED if detach else 0)
    if child.returncode:
        if log:
            raise Unavailable(processes.last_line(log, log_start), "PIPELINE_ENDED")
        raise typer.Exit(1)


def _say_up(running: processes.Running, data_dir: Path, as_json: bool) -> None:
    if as_json:
        shown = {"pid": running.pid, "port": running.port, "http_port": running.http_port}
        emit({**shown, "data_dir": str(data_dir)})
    else:
        http = f", HTTP port {running.http_port}" if running.http_port else ""
        say(f"up: pid {running.pid}, port {running.port}{http} (data dir {data_dir})")


def _answers(target: str) -> bool:
    with connect(target, CONNECT_TIMEOUT_S) as client:
        try:
            client.status()
        except LarimarError:
            return False
    return True


def down(data_dir: DataDir = Path(".larimar"), as_json: AsJson = False) -> None:
    """Stops the pipeline of a data directory, in order; what is written stays."""
    data_dir = data_dir.resolve()
    running = processes.find_running(data_dir)
    shown: dict[str, Any] = {"stopped": running is not None, "data_dir": str(data_dir)}
    if running is None:
        emit(shown) if as_json else say(f"not running (data dir {data_dir})")
        return
    with working(f"stopping pid {running.pid}"):
        in_order = processes.stop(running)
    if not in_order:
        (data_dir / processes.UP_FILE).unlink(missing_ok=True)
    if as_json:
        emit({**shown, "pid": running.pid, "killed": not in_order})
    else:
        how = "stopped" if in_order else "did not stop in time and was killed"
        say(f"pid {running.pid} {how} (data dir {data_dir})")


def redeploy(
    model: Annotated[str | None, typer.Option(help="A model's folder.")] = None,
    settings: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Settings from now on, JSON.")
    ] = None,
    data_dir: DataDir = Path(".larimar"),
    as_json: AsJson = False,
) -> None:
    """Replaces every process of a running pipeline by one of these settings, while it serves.

    Without options it starts the same anew, which reads changed files: certificates, a model.
    """
    changes: dict[str, str] = {}
    if model:
        changes["model"] = str(Path(model).resolve())
    if settings:
        changes["settings"] = str(settings.resolve())
    data_dir = data_dir.resolve()
    with working("replacing every service, one after the other"):
        answer = processes.redeploy(data_dir, changes)
    shown = {"model": answer["model"], "seconds": answer["seconds"], "data_dir": str(data_dir)}
    if as_json:
        emit(shown)
    else:
        say(f"redeployed in {answer['seconds']:.1f} s (model {answer['model']})")


def status(
    target: Target = DEFAULT_TARGET, timeout: Timeout = 10.0, as_json: AsJson = False
) -> None:
    """What is running, of which model, and what its banks hold."""
    with connect(target, timeout) as client:
        found = client.status()
        try:
            banks = client.list_banks()
            trouble = ""
        except LarimarError as error:
            banks, trouble = [], error.message
    held = [
        {"bank": one.bank, "addressing": one.addressing, "facts": one.facts, "version": one.version}
        for one in banks
    ]
    if as_json:
        emit({"target": target, **asdict(found), "banks": held} | _if_any("banks_error", trouble))
        return
    say(
        f"larimar {found.version} at {target}; model {shorten(found.model_digest)}, "
        f"encoder {shorten(found.encoder_digest)}, scope {shorten(found.scope_digest)}"
    )
    print_table(
        ("service", "ready", "pid", "detail"),
        [
            (one.name, "yes" if one.ready else "no", one.pid or "-", one.detail)
            for one in found.services
        ],
    )
    if trouble:
        note(f"banks cannot be listed: {trouble}", "red")
    else:
        print_table(("bank", "addressing", "facts", "version"), [list(b.values()) for b in held])


def _if_any(name: str, value: str) -> dict[str, str]:
    return {name: value} if value else {}
