"""What the doctor sees on this machine: packages, disk, model, certificate, ledger, audit log."""

from __future__ import annotations

import datetime
import importlib.metadata
import ipaddress
import re
import shutil
import socket
import ssl
import sys
from pathlib import Path

from cryptography import x509

from larimar.config import DETECTORS
from larimar.errors import LarimarError
from larimar.manifest import Manifest
from services.build import LEDGER_NAME, audit_folder
from services.doctor.findings import FAIL, OK, WARN, Finding, graded, not_checked
from services.settings import CHECKOUT, Settings

NAMED_PACKAGES = 5
"""Packages that a finding names; it counts the others."""
LEAST_FREE_BYTES = 256 * 2**20
"""Free space of the disk below which the store is about to stop."""
FREE_WARN = 0.1
"""Share of the disk that should be free."""
CERTIFICATE_WARN_DAYS, CERTIFICATE_FAIL_DAYS = 21, 2
"""Days before its end from which on a certificate is named."""
PORT_TIMEOUT_S = 5.0

_PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==(\S+)", re.MULTILINE)


def check_packages(constraints: Path = CHECKOUT / "constraints.txt") -> list[Finding]:
    """Installed packages against the pinned ones."""
    version = ".".join(map(str, sys.version_info[:3]))
    findings = [Finding("host.python", OK, version)]
    if not constraints.is_file():
        return [*findings, not_checked("host.packages", f"no {constraints.name}", "run a checkout")]
    other = []
    for name, wanted in _PIN.findall(constraints.read_text(encoding="utf-8")):
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # of an extra that is not installed here
        if installed.partition("+")[0] != wanted:
            other.append(f"{name} {installed} (pinned {wanted})")
    if not other:
        return [*findings, Finding("host.packages", OK, "as pinned")]
    more = f" and {len(other) - NAMED_PACKAGES} more" if len(other) > NAMED_PACKAGES else ""
    return [
        *findings,
        Finding(
            "host.packages", WARN, ", ".join(other[:NAMED_PACKAGES]) + more,
            "`make setup` installs what was tested together",
        ),
    ]  # fmt: skip


def check_disk(data_dir: Path) -> list[Finding]:
    """Free space where the embedded store writes."""
    if not data_dir.is_dir():
        return [not_checked("host.disk", f"no data directory {data_dir}", "give --data-dir")]
    usage = shutil.disk_usage(data_dir)
    held = sum(
        path.stat().st_size for path in (data_dir / "appendonlydir").glob("*") if path.is_file()
    )
    found = f"{usage.free / 2**30:.1f} GiB free, the log has {held / 2**30:.2f} GiB"
    level = OK
    if usage.free < 2 * held or usage.free < FREE_WARN * usage.total:
        level = WARN
    if usage.free < max(LEAST_FREE_BYTES, held):
        level = FAIL
    do = "make room: a rewrite needs as much again as the log has, and a full disk stops edits"
    return [Finding("host.disk", level, found, "" if level == OK else do)]


def check_model(settings: Settings, served_digest: str) -> list[Finding]:
    """The model folder: its digests, its detector of scope, and whether it is the one that serves.

    Args:
        served_digest: of the model that the pipeline says it serves; empty when none said.
    """
    try:
        folder = Manifest.open(settings.model)
    except LarimarError as error:
        return [Finding("model.folder", FAIL, error.message, "give --model another folder")]
    damaged = folder.damaged()
    if damaged:
        return [
            Finding(
                "model.folder", FAIL, f"not as config.json says: {', '.join(damaged)}",
                "copy the folder again from where it was made",
            )
        ]  # fmt: skip
    findings = [Finding("model.folder", OK, f"{folder.path.name}, as its digests say")]
    scope = folder.config.scope
    detector = settings.detector or scope.detector
    if detector not in DETECTORS:
        findings.append(
            Finding("model.scope", FAIL, f"no detector {detector!r}", f"one of {DETECTORS}")
        )
    else:
        threshold = scope.isd_threshold if detector == "isd" else scope.threshold
        right = 0 < threshold < 1
        findings.append(
            Finding(
                "model.scope",
                OK if right else WARN,
                f"{detector}, threshold {threshold:.3f}",
                "" if right else "calibrate the detector: see docs/scope.md",
            )
        )
    if served_digest and served_digest != folder.model_digest:
        findings.append(
            Finding(
                "model.served", WARN,
                f"{served_digest[:12]} serves, and the folder is {folder.model_digest[:12]}",
                "restart the pipeline, or name the folder that it serves in the settings",
            )
        )  # fmt: skip
    return findings


def check_certificate(host: str, port: int) -> Finding:
    """How long the certificate of a port still counts."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((host, port), PORT_TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as wrapped,
        ):
            shown = wrapped.getpeercert(binary_form=True)
    except OSError as error:
        return not_checked("port.certificate", f"{host}:{port}: {error}", "is it a TLS port?")
    if shown is None:
        return not_checked("port.certificate", "the port shows none", "is it a TLS port?")
    ends = x509.load_der_x509_certificate(shown).not_valid_after_utc
    days = (ends - datetime.datetime.now(datetime.UTC)).total_seconds() / 86400
    return graded(
        "port.certificate", -days, -CERTIFICATE_WARN_DAYS, -CERTIFICATE_FAIL_DAYS,
        f"counts until {ends:%Y-%m-%d} ({days:.0f} days)",
        "put a new one in the place of tls_cert and tls_key, and restart the pipeline",
    )  # fmt: skip


def check_openness(host: str, require_keys: bool, has_tls: bool) -> Finding:
    """Whether strangers may reach the port, and what they would meet there."""
    if is_loopback(host):
        return Finding("port.open", OK, f"{host}, this machine alone")
    if not require_keys:
        return Finding(
            "port.open", FAIL, f"{host} asks for no API keys: whoever reaches it may read and edit",
            "start with --require-keys, or listen on 127.0.0.1",
        )  # fmt: skip
    if not has_tls:
        return Finding(
            "port.open", WARN, f"{host} asks for keys, which travel in plain text",
            "give --tls-cert and --tls-key, unless TLS ends before the port",
        )  # fmt: skip
    return Finding("port.open", OK, f"{host}, with keys and TLS")


def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def check_ledger(settings: Settings) -> Finding:
    """Whether the erase ledger can be read."""
    from services.memory.ledger import EraseLedger

    path = Path(settings.erase_ledger or Path(settings.data_dir) / LEDGER_NAME)
    if not path.exists():
        return Finding("host.ledger", OK, "nothing was erased")
    lines = sum(bool(line.strip()) for line in path.read_bytes().splitlines())
    entries = EraseLedger(path).entries()
    if len(entries) < lines:
        return Finding(
            "host.ledger", FAIL,
            f"{lines - len(entries)} of {lines} lines of {path} cannot be read",
            "restore the ledger from its own copy: without them erased facts may come back",
        )  # fmt: skip
    facts = sum(not entry.predecessor for entry in entries)
    return Finding("host.ledger", OK, f"{facts} erased facts")


def check_audit(settings: Settings) -> Finding:
    """How much the audit log holds."""
    if not settings.audit_mb:
        return Finding("host.audit", WARN, "no audit log is kept", "set audit_mb in the settings")
    folder = audit_folder(settings)
    size = sum(path.stat().st_size for path in folder.glob("*.jsonl")) if folder.is_dir() else 0
    return Finding("host.audit", OK, f"{size / 2**20:.1f} of {settings.audit_mb} MiB")
