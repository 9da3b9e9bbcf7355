"""`larimar doctor`: looks at a whole deployment and says what to do.

One JSON object on standard input (data_dir, redis_url, target, security, deep), a finding a line
on standard output, as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

from larimar.cli.processes import UP_FILE, find_running
from larimar.errors import LarimarError
from larimar.security import Security
from services.doctor import host, store
from services.doctor.findings import FAIL, Finding, not_checked
from services.doctor.pipeline import (
    Pipeline,
    banks_of,
    check_followers,
    check_services,
    unreadable,
)
from services.private import probe_sockets
from services.run import die_with_parent
from services.settings import Settings, default_settings
from services.store import SOCKET_NAME, socket_path_of


def examine(job: dict[str, Any]) -> list[Finding]:
    """Everything that can be looked at, also where the pipeline or its store is down."""
    data_dir = Path(job["data_dir"])
    running = _running(data_dir)
    settings = _settings(job, running)
    findings = [*host.check_packages(), *host.check_disk(data_dir)]
    findings += [host.check_ledger(settings), host.check_audit(settings)]
    url = settings.redis_url or _embedded_url(data_dir)
    if url:
        findings += asyncio.run(store.check_store(url, settings))
    else:
        findings.append(
            not_checked(
                "store.reachable", "the embedded store runs with its pipeline", "`larimar up`"
            )
        )
    pipeline = _pipeline(job, data_dir)
    served = ""
    if pipeline is None:
        findings.append(
            Finding("pipeline.answers", FAIL, f"no pipeline runs on {data_dir}", "`larimar up`")
        )
    else:
        with contextlib.closing(pipeline):
            answers, served = check_services(pipeline)
            findings += answers
            if url and served:
                findings += _followers(pipeline, url, job["deep"])
    findings += host.check_model(settings, served)
    findings += _ports(job, settings, running)
    return findings


def _followers(pipeline: Pipeline, url: str, deep: bool) -> list[Finding]:
    try:
        heads = asyncio.run(banks_of(url))
    except LarimarError as error:
        return [unreadable(error)]
    return check_followers(pipeline, heads, deep)


def _ports(job: dict[str, Any], settings: Settings, running: dict[str, Any]) -> list[Finding]:
    """Who may come in by the public port, and its certificate."""
    address, _, port = (job["target"] or "").rpartition(":")
    findings = []
    if running or not address:
        tls = bool(running.get("tls", settings.tls_cert))
        findings.append(host.check_openness(settings.host, settings.require_keys, tls))
        address, port = _reached(settings.host), str(running.get("port", ""))
    else:
        tls = job["security"].get("tls_ca") is not None
    if tls and port:
        findings.append(host.check_certificate(address, int(port)))
    return findings


def _reached(address: str) -> str:
    """Where this machine reaches what listens at an address."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)


def _pipeline(job: dict[str, Any], data_dir: Path) -> Pipeline | None:
    """The pipeline that is meant, by its public port or, without one, by its private socket."""
    if job["target"]:
        return Pipeline(job["target"], Security(**job["security"]))
    sockets = probe_sockets(str(data_dir))
    return Pipeline(f"unix:{sockets[-1]}", Security()) if sockets else None


def _running(data_dir: Path) -> dict[str, Any]:
    """What the pipeline of a data directory says of itself; empty when none runs."""
    if find_running(data_dir) is None:
        return {}
    try:
        return json.loads((data_dir / UP_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _settings(job: dict[str, Any], running: dict[str, Any]) -> Settings:
    """The settings of the pipeline, as far as they can be known from beside it."""
    known = {name: running[name] for name in ("host", "require_keys", "model") if name in running}
    if job["redis_url"]:
        known["redis_url"] = job["redis_url"]
    return dataclasses.replace(default_settings(), data_dir=job["data_dir"], **known)


def _embedded_url(data_dir: Path) -> str:
    """Where the embedded store listens; empty where it does not run."""
    if not (data_dir / SOCKET_NAME).exists():
        return ""
    return f"unix://{quote(str(socket_path_of(data_dir)))}"


def main() -> int:
    """Reads the job, prints the findings."""
    die_with_parent()
    job = json.loads(sys.stdin.readline())
    try:
        for finding in examine(job):
            print(json.dumps(dataclasses.asdict(finding)))
    except LarimarError as error:
        print(json.dumps({"code": error.code, "reason": error.reason, "message": error.message}),
              file=sys.stderr)  # fmt: skip
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
