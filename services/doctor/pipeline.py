"""What the doctor asks a pipeline: its services, its stopped banks, how far its followers are."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import grpc

from larimar import __version__
from larimar.calls import LONG_TIMEOUT_S
from larimar.errors import LarimarError
from larimar.security import Security
from larimar.v1 import larimar_pb2, larimar_pb2_grpc
from services.doctor.findings import FAIL, OK, WARN, Finding
from services.gateway.auth import TENANT_KEY
from services.redis_log import RedisLog
from services.rpc import REASON_KEY

STATUS_TIMEOUT_S = 10.0
"""Time that a gateway has to say how all services are; it waits for each up to three seconds."""
LOOK_TIMEOUT_S = 30.0
"""Time that a follower has to catch up with a bank."""
SLOW_S = 2.0
"""Time after which a follower is said to be behind."""
MOST_BANKS = 20
"""Banks that are looked at unless all are wanted: a look folds what a follower has not yet."""


class Pipeline:
    """A gateway of a running pipeline, as its operator calls it.

    Args:
        target: HOST:PORT of the public port, or unix:PATH of the private socket.
        security: what the public port is shown.
    """

    def __init__(self, target: str, security: Security) -> None:
        credentials = security.credentials()
        self.target = target
        self.is_private = target.startswith("unix:")
        self._metadata = security.metadata
        self._channel = (
            grpc.insecure_channel(target)
            if credentials is None
            else grpc.secure_channel(target, credentials)
        )
        self._stub = larimar_pb2_grpc.LarimarStub(self._channel)

    def call(self, method: str, request: Any, timeout_s: float, tenant: str = "") -> Any:
        """The response of a call. Raises: grpc.RpcError.

        Args:
            tenant: whose call it is, where the private socket is called.
        """
        more = ((TENANT_KEY, tenant),) if tenant and self.is_private else ()
        call = getattr(self._stub, method)
        return call(request, timeout=timeout_s, metadata=(*self._metadata, *more))

    def close(self) -> None:
        """Ends the connection."""
        self._channel.close()


def check_services(pipeline: Pipeline) -> tuple[list[Finding], str]:
    """Each service, and banks that are stopped; and the digest of the model that serves."""
    try:
        status = pipeline.call("GetStatus", larimar_pb2.GetStatusRequest(), STATUS_TIMEOUT_S)
    except grpc.RpcError as error:
        return [
            Finding(
                "pipeline.answers", FAIL, f"{pipeline.target}: {_why(error)}",
                "`larimar up`, or the key and certificate that the port asks for",
            )
        ], ""  # fmt: skip
    findings = [Finding("pipeline.answers", OK, f"version {status.version}")]
    if status.version != __version__:
        findings[0] = Finding(
            "pipeline.answers", WARN, f"version {status.version}, and this is {__version__}",
            "restart the pipeline after an upgrade",
        )  # fmt: skip
    stopped = []
    for one in status.services:
        detail, *banks = one.detail.split("; STOPPED ")
        stopped += banks
        findings.append(
            Finding(
                f"pipeline.{one.name}",
                OK if one.ready else FAIL,
                detail or f"pid {one.pid}",
                "" if one.ready else "it is started again by itself; up.log or Ray's logs say why",
            )
        )
    for bank in stopped:
        findings.append(
            Finding(
                "bank.stopped", FAIL, bank,
                "restore the store from a backup or a replica; docs/operations.md, A stopped bank",
            )
        )  # fmt: skip
    if not stopped:
        findings.append(Finding("bank.stopped", OK, "none, as far as this memory replica knows"))
    return findings, status.model_digest


async def banks_of(url: str) -> dict[tuple[str, str], int]:
    """Every bank of a store with its log's version. Raises: LarimarError."""
    log = RedisLog(url)
    try:
        return {
            (tenant, bank): (await log.head(tenant, bank))[0]
            for tenant in await log.tenants()
            for bank in await log.banks(tenant)
        }
    finally:
        await log.close()


def check_followers(
    pipeline: Pipeline, heads: Mapping[tuple[str, str], int], whole: bool
) -> list[Finding]:
    """How far the memory is behind the log, a bank at a time.

    Args:
        heads: version of each bank's log.
        whole: whether all banks are looked at, and each is rebuilt from its log and compared.
    """
    seen = [key for key in sorted(heads) if pipeline.is_private or whole or key[0] == "default"]
    looked = seen if whole else seen[:MOST_BANKS]
    behind, findings, slowest = [], [], 0.0
    for tenant, bank in looked:
        started = time.monotonic()
        request = larimar_pb2.GetBankRequest(bank=bank)
        with _told(findings, f"{tenant}/{bank}"):
            info = pipeline.call("GetBank", request, LOOK_TIMEOUT_S, tenant).info
            took = time.monotonic() - started
            slowest = max(slowest, took)
            if info.version < heads[tenant, bank] or took > SLOW_S:
                behind.append(f"{tenant}/{bank} ({took:.1f} s)")
            if whole:
                findings.append(_replayed(pipeline, tenant, bank))
    more = f"; {len(heads) - len(looked)} others not looked at" if len(heads) > len(looked) else ""
    if behind:
        findings.append(
            Finding(
                "bank.lag", WARN, f"behind the log: {', '.join(behind[:MOST_BANKS])}{more}",
                "look again: a follower that starts folds; `larimar checkpoint` makes that short",
            )
        )  # fmt: skip
    else:
        said = f"{len(looked)} banks up with their logs, the slowest in {slowest:.2f} s"
        findings.append(Finding("bank.lag", OK, said + more))
    return findings


def _replayed(pipeline: Pipeline, tenant: str, bank: str) -> Finding:
    request = larimar_pb2.ReplayRequest(bank=bank)
    replay = pipeline.call("Replay", request, LONG_TIMEOUT_S, tenant)
    said = f"{tenant}/{bank}: {replay.events} events replayed in {replay.seconds:.1f} s"
    if replay.matches:
        return Finding("bank.digest", OK, f"{said}, equal to what serves")
    return Finding(
        "bank.digest", FAIL, f"{said}, and not what serves",
        "restart memory and scope; if it stays, keep the store's files and report it",
    )  # fmt: skip


@contextlib.contextmanager
def _told(findings: list[Finding], bank: str) -> Iterator[None]:
    """Makes a finding of a bank that cannot be read."""
    try:
        yield
    except grpc.RpcError as error:
        findings.append(
            Finding(
                "bank.reads",
                FAIL,
                f"{bank}: {_why(error)}",
                "see docs/operations.md, Errors by reason",
            )
        )


def _why(error: Any) -> str:
    trailing = dict(error.trailing_metadata() or ())
    reason = trailing.get(REASON_KEY) or error.code().name
    return f"{reason}: {error.details()}"


def unreadable(error: LarimarError) -> Finding:
    """What is said of banks when the store cannot list them."""
    return Finding(
        "bank.lag", WARN, f"not checked: {error.message}", "the store must answer for this"
    )
