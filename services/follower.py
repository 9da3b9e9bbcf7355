"""A follower: folds a bank's log into state, and fetches the tail before every read.

Both the memory and the scope service are followers. A follower needs no lock on the
log and owns nothing: any number of them may fold the same bank.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator

from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from larimar.errors import DataLoss, FailedPrecondition, LarimarError, NotFound, Unavailable
from larimar.memory import BankState, Event, Payload
from services.log import Log

log = logging.getLogger("larimar.follower")

TAIL_EVENTS = 1000
"""Events fetched and folded at once; between two such steps other calls get their turn."""
MIN_CHECKPOINT_PAUSE_S = 5.0
"""Least time between two checkpoints of a bank, however fast events come."""


class _Bank:
    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.state: BankState | None = None
        self.stopped: DataLoss | None = None
        self.checkpoint_version = 0
        self.checkpoint_time = 0.0


class Follower:
    """Keeps the states of the banks in use, within a byte budget.

    Args:
        parts: what of a bank's state is kept: "memory", "scope" or both.
        state_budget_bytes: idle banks are dropped, least recently used first, beyond it.
        checkpoint_every: events after which a checkpoint is saved; 0 never saves one.
            Only a follower with both parts saves checkpoints.
    """

    def __init__(
        self,
        log_port: Log,
        parts: tuple[str, ...],
        state_budget_bytes: int,
        checkpoint_every: int = 0,
    ) -> None:
        self.log = log_port
        self.parts = parts
        self.state_budget_bytes = state_budget_bytes
        self.checkpoint_every = checkpoint_every
        self._banks: OrderedDict[tuple[str, str], _Bank] = OrderedDict()
        self._tasks: set[asyncio.Task] = set()

    @contextlib.asynccontextmanager
    async def state(self, tenant: str, bank: str, min_version: int = 0) -> AsyncIterator[BankState]:
        """The state of a bank with every edit acknowledged before this call.

        The state is the caller's until the block ends; do not await in between.

        Raises:
            NotFound: no such bank.
            FailedPrecondition: `min_version` is past the log's end.
            DataLoss: the log is damaged; the bank stays stopped until it is repaired.
            Unavailable: the store is down.
        """
        held = self._banks.setdefault((tenant, bank), _Bank())
        self._banks.move_to_end((tenant, bank))
        async with held.lock:
            state = await self._caught_up(held, tenant, bank)
            if state.version < min_version:
                raise FailedPrecondition(
                    f"bank {bank!r} is at version {state.version}, not yet at {min_version}: "
                    "ask for a version that a write has returned",
                    "VERSION_NOT_WRITTEN",
                )
            yield state
        self._shrink((tenant, bank))

    async def rebuilt(self, tenant: str, bank: str) -> BankState:
        """The state folded from the log alone, from its first event. Raises: as `state`."""
        state = BankState(await self.log.bank_config(tenant, bank), self.parts)
        await self.fold_tail(state, tenant, bank)
        return state

    async def save_checkpoint(self, tenant: str, bank: str) -> tuple[int, str, int]:
        """Saves a checkpoint of the newest version: (version, digest, bytes). As `state` raises."""
        async with self.state(tenant, bank) as state:
            version, digest, chain = state.version, state.digest(), state.chain
            tensors, metadata = state.to_tensors()
        blob = await asyncio.to_thread(save_tensors, tensors, metadata)
        await self.log.put_checkpoint(
            tenant,
            bank,
            version,
            blob,
            {"digest": digest, "chain": chain, "sha256": hashlib.sha256(blob).hexdigest()},
        )
        held = self._banks.get((tenant, bank))
        if held:
            held.checkpoint_version, held.checkpoint_time = version, time.monotonic()
        return version, digest, len(blob)

    @property
    def banks_held(self) -> int:
        """Banks with a state in this process."""
        return sum(held.state is not None for held in self._banks.values())

    @property
    def bytes_held(self) -> int:
        """Bytes of all states in this process."""
        return sum(held.state.bytes_held for held in self._banks.values() if held.state)

    async def _caught_up(self, held: _Bank, tenant: str, bank: str) -> BankState:
        try:
            if held.stopped is not None:
                held.state, held.stopped = None, None
            if held.state is None or held.state.version == 0:  # no chain yet to tell a bank by
                held.state = await self._cold_state(held, tenant, bank)
            try:
                await self.fold_tail(held.state, tenant, bank)
            except FailedPrecondition as error:
                if error.reason != "LOG_CHANGED":
                    raise
                log.warning("chain of bank %s broke: folding its log from nothing", bank)
                held.checkpoint_version = 0
                held.state = BankState(await self.log.bank_config(tenant, bank), self.parts)
                await self.fold_tail(held.state, tenant, bank)
        except DataLoss as error:
            log.error("bank %s stopped: %s", bank, error)
            held.state, held.stopped = None, error
            raise
        except NotFound:
            self._banks.pop((tenant, bank), None)
            raise
        self._checkpoint_when_due(held, tenant, bank)
        return held.state

    async def _cold_state(self, held: _Bank, tenant: str, bank: str) -> BankState:
        config = await self.log.bank_config(tenant, bank)
        for version, meta in await self.log.checkpoints(tenant, bank):
            try:
                blob = await self.log.get_checkpoint(tenant, bank, version)
                if hashlib.sha256(blob).hexdigest() != meta.get("sha256"):
                    raise ValueError("SHA-256 does not match")
                state = await asyncio.to_thread(_state_of, blob)
                if (state.version, state.chain) != (version, meta.get("chain")):
                    raise ValueError("version or chain does not match")
                if state.config != config:
                    raise ValueError("it is of another configuration")
                state.keep_only(self.parts)
                await self.fold_tail(state, tenant, bank)
            except Unavailable:
                raise
            except Exception as error:
                log.warning("checkpoint %d of bank %s is skipped: %s", version, bank, error)
                continue
            held.checkpoint_version = version
            return state
        return BankState(config, self.parts)

    async def fold_tail(self, state: BankState, tenant: str, bank: str) -> None:
        """Folds what the log has after a state, up to its end. Raises: as `state`."""
        while True:
            raw = await self.log.tail(tenant, bank, state.version, TAIL_EVENTS, state.chain)
            if not raw:
                return
            entries: list[tuple[Event, Payload | None]] = [
                (event, None if payload is None else Payload.from_bytes(payload))
                for event, payload in raw
            ]
            needed = state.needs(entries)
            old = {}
            if needed:
                payloads = await self.log.payloads(tenant, bank, needed)
                old = {
                    version: Payload.from_bytes(payload)
                    for version, payload in zip(needed, payloads, strict=True)
                }
            state.fold(entries, old)
            await asyncio.sleep(0)

    def _checkpoint_when_due(self, held: _Bank, tenant: str, bank: str) -> None:
        if not self.checkpoint_every or held.state is None or len(self.parts) < 2:
            return
        due = held.state.version - held.checkpoint_version >= self.checkpoint_every
        if due and time.monotonic() - held.checkpoint_time > MIN_CHECKPOINT_PAUSE_S:
            held.checkpoint_version, held.checkpoint_time = held.state.version, time.monotonic()
            task = asyncio.create_task(self._save_quietly(held, tenant, bank))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _save_quietly(self, held: _Bank, tenant: str, bank: str) -> None:
        try:
            await self.save_checkpoint(tenant, bank)
        except LarimarError as error:
            held.checkpoint_version = 0
            log.warning("no checkpoint of bank %s: %s", bank, error)

    def _shrink(self, keep: tuple[str, str]) -> None:
        while self.bytes_held > self.state_budget_bytes:
            idle = [
                key
                for key, held in self._banks.items()
                if key != keep and held.state is not None and not held.lock.locked()
            ]
            if not idle:
                return
            del self._banks[idle[0]]


def _state_of(blob: bytes) -> BankState:
    size = int.from_bytes(blob[:8], "little")
    metadata = json.loads(blob[8 : 8 + size])["__metadata__"]
    return BankState.from_tensors(load_tensors(blob), metadata)
