"""Starting from a checkpoint: the newest one that is sound, and the log's tail after it."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence

from safetensors.numpy import load as load_tensors

from larimar.errors import NotFound, Unavailable
from larimar.memory import BankState
from services.folding import Outdated, fold_tail
from services.log import ChainBroken, Log
from services.observability import metrics
from services.observability.logs import get_logger

log = get_logger("larimar.follower")


async def from_checkpoint(
    log_port: Log, tenant: str, bank: str, part: str, parts: Sequence[str], at_version: int = 0
) -> tuple[BankState, int] | None:
    """A state brought up to date from a checkpoint, and the checkpoint's version; None without one.

    A checkpoint that is damaged, of another log or configuration, or that holds what was erased
    since, is skipped for an older one, and said so in the log. Only the damaged one is counted as
    such: the others are sound, and outdated.

    Args:
        part: whose checkpoints are looked at; `parts` are what is kept of the state.
        at_version: the version wanted; 0 for the newest.

    Raises:
        NotFound: no such bank.
        Unavailable: the store is down.
    """
    config = await log_port.bank_config(tenant, bank)
    for version, meta in await log_port.checkpoints(tenant, bank, part):
        if at_version and version > at_version:
            continue
        try:
            blob = await log_port.get_checkpoint(tenant, bank, part, version)
            sha256, state = await asyncio.gather(
                asyncio.to_thread(sha256_of, blob), asyncio.to_thread(state_of, blob)
            )
            if sha256 != meta.get("sha256"):
                raise ValueError("SHA-256 does not match")
            if (state.version, state.chain) != (version, meta.get("chain")):
                raise ValueError("version or chain does not match")
            if state.config != config:
                raise Outdated("it is of another configuration")
            erased = await log_port.erased(tenant, bank)
            if not erased.isdisjoint(state.facts):
                raise Outdated("it holds facts that were erased since")
            state.erase(erased, {})
            state.keep_only(parts)
            await fold_tail(log_port, state, tenant, bank, at_version)
        except Unavailable:
            raise
        except Exception as error:
            # NotFound: a newer one has replaced it since they were listed.
            damaged = not isinstance(error, Outdated | ChainBroken | NotFound)
            log.warning(
                "checkpoint %d of bank %s is skipped: %s", version, bank, error,
                tenant=tenant, bank=bank, version=version,
            )  # fmt: skip
            metrics.CHECKPOINTS.labels(part, "skipped" if damaged else "outdated").inc()
            if damaged:
                metrics.DIGEST_MISMATCHES.labels("checkpoint").inc()
            continue
        return state, version
    return None


def sha256_of(blob: bytes) -> str:
    """SHA-256, in hex."""
    return hashlib.sha256(blob).hexdigest()


def state_of(blob: bytes) -> BankState:
    """The state that a checkpoint holds; of no use before the checkpoint's SHA-256 is compared.

    Raises:
        DataLoss, ValueError, KeyError: it is none.
    """
    size = int.from_bytes(blob[:8], "little")
    metadata = json.loads(blob[8 : 8 + size])["__metadata__"]
    return BankState.from_tensors(load_tensors(blob), metadata, check=False)
