"""A follower: folds a bank's log into state, and fetches the tail before every read.

Both the memory and the scope service are followers. A follower needs no lock on the
log and owns nothing: any number of them may fold the same bank.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from safetensors.numpy import save as save_tensors

from larimar.errors import DataLoss, FailedPrecondition, LarimarError, NotFound, Unavailable
from larimar.memory import BankState
from services.checkpoints import from_checkpoint, sha256_of
from services.folding import Outdated, fold_tail
from services.log import ChainBroken, Log
from services.observability.followers import FollowerMetrics
from services.observability.logs import get_logger
from services.observability.metrics import DIGEST_MISMATCHES
from services.observability.stages import passed
from services.threads import finished

log = get_logger("larimar.follower")

MIN_CHECKPOINT_PAUSE_S = 5.0
"""Least time between two checkpoints of a bank, however fast events come."""
CHECKPOINT_SHARE = 0.02
"""Most of the time that a bank's checkpoints take: a big one is saved less often."""
MAX_CHECKPOINT_BYTES = 2 * 2**30
"""Largest state that is saved by itself: a checkpoint lies in the store's memory, twice. Beyond
it a follower that starts folds the log."""
STOPPED_S = 5.0
"""How long a stopped bank answers with its error before its log is looked at again."""
MAX_PAST_STATES = 8
"""Past states held at once; the least recently used go first."""
MAX_VERIFY_ROUNDS = 20
"""Times a rebuilt state is brought up to what is served, while others write."""
WARM_BANKS = 16
"""Banks that are brought up to date in the background, most recently used first."""

Key = tuple[str, str, int]


class _Held:
    """A bank at its newest version, or at a past one."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.state: BankState | None = None
        self.counted_bytes = 0
        self.stopped: DataLoss | None = None
        self.stopped_time = 0.0
        self.checkpoint_version = 0
        self.checkpoint_due_time = 0.0


@dataclass(frozen=True, slots=True)
class Verified:
    """A replay from nothing, beside the served state."""

    version: int
    erase_count: int
    facts: int
    digest: str
    folded_sha256: str
    seconds: float
    matches: bool
    """Whether digest and folded bytes are the served state's."""


@dataclass(frozen=True, slots=True)
class View:
    """A state, as a read may use it."""

    state: BankState
    stale: bool
    """Whether the store did not answer, so that newer edits may be missing."""


class Follower:
    """Keeps the states of the banks in use, within a byte budget.

    Args:
        parts: what of a bank's state is kept: "memory", "scope" or both.
        state_budget_bytes: idle banks are dropped, least recently used first, beyond it.
        checkpoint_every: events after which a checkpoint is saved; 0 never saves one.
        warm_every_s: seconds between two looks at the logs of the banks in use; 0 never looks.
        on_stopped: called with tenant, bank and error when a bank stops.
    """

    def __init__(
        self,
        log_port: Log,
        parts: tuple[str, ...],
        state_budget_bytes: int,
        checkpoint_every: int = 0,
        warm_every_s: float = 0.0,
        on_stopped: Callable[[str, str, DataLoss], None] | None = None,
    ) -> None:
        self.log = log_port
        self.parts = parts
        self.part = "memory" if "memory" in parts else "scope"
        self.state_budget_bytes = state_budget_bytes
        self.checkpoint_every = checkpoint_every
        self._warm_every_s = warm_every_s
        self._on_stopped = on_stopped
        self._held: OrderedDict[Key, _Held] = OrderedDict()
        self._past_keys: OrderedDict[Key, None] = OrderedDict()
        self._counted_bytes = 0  # what `bytes_held` adds up, for every read to look at
        self._tasks: set[asyncio.Task] = set()
        self._warmer: asyncio.Task | None = None
        self._metrics = FollowerMetrics(self.part)
        self._tell_what_is_held()

    @contextlib.asynccontextmanager
    async def state(self, tenant: str, bank: str, min_version: int = 0) -> AsyncIterator[BankState]:
        """The state of a bank with every edit acknowledged before this call.

        The state is the caller's until the block ends, and nobody's after it: what works on it in
        a thread goes through `finished`.

        Raises:
            NotFound: no such bank.
            FailedPrecondition: `min_version` is past the log's end.
            DataLoss: the log is damaged; the bank stays stopped until it is repaired.
            Unavailable: the store is down.
        """
        async with self.view(tenant, bank, min_version=min_version) as view:
            yield view.state

    @contextlib.asynccontextmanager
    async def view(
        self,
        tenant: str,
        bank: str,
        *,
        min_version: int = 0,
        at_version: int = 0,
        allow_stale: bool = False,
    ) -> AsyncIterator[View]:
        """As `state`, also of a past version, or of what is held while the store is down.

        Args:
            at_version: the version to read at, 0 for the newest; without what was erased since.
            allow_stale: with the store down, give what is held (`stale`), if it is recent enough
                for `min_version`.

        Raises: as `state`; FailedPrecondition also where `at_version` is not written yet.
        """
        self._start_warming()
        key = (tenant, bank, at_version)
        held = self._held.setdefault(key, _Held())
        self._held.move_to_end(key)
        if at_version:
            self._past_keys[key] = None
            self._past_keys.move_to_end(key)
        started_s = time.monotonic()
        try:
            async with held.lock:
                try:
                    view = await self._view(held, key, min_version if allow_stale else None)
                finally:
                    self._count(key, held)
                passed(f"{self.part}_catch_up", started_s, time.monotonic())
                if view.state.version < min_version:
                    raise FailedPrecondition(
                        f"bank {bank!r} is at version {view.state.version}, not yet at "
                        f"{min_version}: ask for a version that a write has returned",
                        "VERSION_NOT_WRITTEN",
                    )
                yield view
        finally:
            self._shrink(key)

    async def rebuilt(
        self,
        tenant: str,
        bank: str,
        at_version: int = 0,
        progress: Callable[[int], None] | None = None,
    ) -> BankState:
        """The state folded from the log alone, from its first event. Raises: as `state`.

        Args:
            progress: called with the version reached, now and then.
        """
        while True:
            config = await self.log.bank_config(tenant, bank)
            state = BankState(config, self.parts, index_when_asked=True)
            try:
                await fold_tail(self.log, state, tenant, bank, at_version, progress)
            except (Outdated, ChainBroken) as why:  # a fact was erased, or the bank replaced
                log.warning("bank %s is folded anew: %s", bank, why, tenant=tenant, bank=bank)
                continue
            if await self.log.bank_config(tenant, bank) == state.config:
                return state

    async def verified(self, tenant: str, bank: str) -> Verified:
        """Folds the log from nothing and compares digest and bytes with the served state's.

        Raises:
            Unavailable: BUSY, the bank is written to faster than it replays: retry.
            As `state`.
        """
        started = time.monotonic()
        rebuilt = await self.rebuilt(tenant, bank)
        seconds = time.monotonic() - started
        for _ in range(MAX_VERIFY_ROUNDS):
            async with self.state(tenant, bank) as state:
                served_at = state.version, state.erase_count
                served = await finished(_sums_of, state)
            if served_at == (rebuilt.version, rebuilt.erase_count):
                digest, folded = await finished(_sums_of, rebuilt)
                matches = served == (digest, folded)
                if not matches:
                    DIGEST_MISMATCHES.labels("replay").inc()
                return Verified(
                    rebuilt.version, rebuilt.erase_count, len(rebuilt), digest, folded, seconds,
                    matches,
                )  # fmt: skip
            try:
                await fold_tail(self.log, rebuilt, tenant, bank)
            except Outdated:
                rebuilt = await self.rebuilt(tenant, bank)
        raise Unavailable("the bank is written to faster than it replays: retry", "BUSY")

    async def save_checkpoint(self, tenant: str, bank: str) -> tuple[int, str, int]:
        """Saves a checkpoint of the newest version: (version, digest, bytes). As `state` raises.

        Raises:
            Unavailable: BUSY, facts were erased meanwhile, or the bank made anew: retry.
        """
        started = time.monotonic()
        async with self.state(tenant, bank) as state:
            tensors, metadata = await finished(state.to_tensors)
            version, erase_count = state.version, state.erase_count
        blob = await asyncio.to_thread(save_tensors, tensors, metadata)
        sha256 = await asyncio.to_thread(sha256_of, blob)
        meta = {"digest": metadata["digest"], "chain": metadata["chain"], "sha256": sha256}
        if not await self.log.put_checkpoint(
            tenant, bank, self.part, version, blob, meta, erase_count
        ):
            raise Unavailable(
                "facts were erased, or the bank made anew, while a checkpoint was saved: retry",
                "BUSY",
            )
        self._metrics.checkpoints["saved"].inc()
        held = self._held.get((tenant, bank, 0))
        if held:
            took = time.monotonic() - started
            held.checkpoint_version = version
            held.checkpoint_due_time = time.monotonic() + max(
                MIN_CHECKPOINT_PAUSE_S, took / CHECKPOINT_SHARE
            )
        return version, metadata["digest"], len(blob)

    def stopped(self, tenant: str, bank: str) -> DataLoss | None:
        """Why a bank is stopped, as far as this follower knows; None when it is not."""
        held = self._held.get((tenant, bank, 0))
        if held is None or held.stopped is None:
            return None
        return held.stopped if time.monotonic() - held.stopped_time < STOPPED_S else None

    @property
    def stopped_banks(self) -> list[str]:
        """The banks that are stopped, as far as this follower knows: tenant/bank and why."""
        return [
            f"{tenant}/{bank}: {held.stopped.message}"
            for (tenant, bank, _), held in self._held.items()
            if held.stopped is not None
        ]

    @property
    def banks_held(self) -> int:
        """Banks with a state in this process, past versions not counted."""
        return sum(held.state is not None for (_, _, at), held in self._held.items() if not at)

    @property
    def bytes_held(self) -> int:
        """Bytes of all states in this process."""
        return sum(held.state.bytes_held for held in self._held.values() if held.state)

    async def _view(self, held: _Held, key: Key, stale_from: int | None) -> View:
        """The view of a bank; with the store down what is held, from that version on, if any."""
        tenant, bank, at_version = key
        try:
            if at_version:
                return View(await self._past(held, key), stale=False)
            return View(await self._caught_up(held, tenant, bank), stale=False)
        except Unavailable:
            state = held.state
            if stale_from is None or state is None or state.version < stale_from:
                raise
            return View(state, stale=True)
        except NotFound:
            self._let_go(key)
            raise
        finally:
            if at_version and held.state is None:
                self._let_go(key)

    async def _caught_up(self, held: _Held, tenant: str, bank: str) -> BankState:
        stopped = self.stopped(tenant, bank)
        if stopped is not None:
            raise stopped
        try:
            if held.state is None or held.state.version == 0:  # no chain yet to tell a bank by
                held.state = await self._cold_state(held, tenant, bank)
            before = held.state.version
            try:
                await fold_tail(self.log, held.state, tenant, bank)
                self._metrics.lag.observe(held.state.version - before)
            except Outdated as why:
                log.warning("bank %s is folded anew: %s", bank, why, tenant=tenant, bank=bank)
                held.state = await self._cold_state(held, tenant, bank)
            except FailedPrecondition as error:
                if error.reason != "LOG_CHANGED":
                    raise
                log.warning(
                    "the log of bank %s has another history (failover, restored backup or a bank "
                    "made anew); version %d and what led to it may be gone: folding from nothing",
                    bank,
                    held.state.version,
                    tenant=tenant,
                    bank=bank,
                    version=held.state.version,
                )
                self._metrics.other_histories.inc()
                held.checkpoint_version = 0
                held.state = await self.rebuilt(tenant, bank)
        except DataLoss as error:
            log.error(
                "bank %s stopped: %s", bank, error, tenant=tenant, bank=bank, reason=error.reason
            )
            DIGEST_MISMATCHES.labels("log").inc()
            held.state, held.stopped, held.stopped_time = None, error, time.monotonic()
            self._tell_what_is_held()
            if self._on_stopped is not None:
                self._on_stopped(tenant, bank, error)
            raise
        held.stopped = None
        self._checkpoint_when_due(held, tenant, bank)
        return held.state

    async def _past(self, held: _Held, key: Key) -> BankState:
        """A bank at an earlier version: checked against the log, or folded from it."""
        tenant, bank, at_version = key
        newest, _, erase_count = await self.log.head(tenant, bank)
        if not 0 < at_version <= newest:
            raise FailedPrecondition(
                f"bank {bank!r} has versions 1 to {newest}, not {at_version}: ask for one of them",
                "VERSION_NOT_WRITTEN",
            )
        state = held.state
        if state is not None and state.erase_count == erase_count:
            try:
                await self.log.tail(tenant, bank, at_version, 1, state.chain)
                return state
            except FailedPrecondition as error:
                if error.reason != "LOG_CHANGED":
                    raise
        held.state = None
        held.state = await self._cold_state(held, tenant, bank, at_version)
        return held.state

    async def _cold_state(
        self, held: _Held, tenant: str, bank: str, at_version: int = 0
    ) -> BankState:
        """The state from the newest checkpoint that serves, or from nothing."""
        found = await from_checkpoint(self.log, tenant, bank, self.part, self.parts, at_version)
        if found is None:
            return await self.rebuilt(tenant, bank, at_version)
        state, version = found
        if not at_version:
            held.checkpoint_version = version
        return state

    def _checkpoint_when_due(self, held: _Held, tenant: str, bank: str) -> None:
        if not self.checkpoint_every or held.state is None:
            return
        due = held.state.version - held.checkpoint_version >= self.checkpoint_every
        small = held.state.bytes_held <= MAX_CHECKPOINT_BYTES
        if due and small and time.monotonic() > held.checkpoint_due_time:
            held.checkpoint_version = held.state.version
            held.checkpoint_due_time = time.monotonic() + MIN_CHECKPOINT_PAUSE_S
            self._spawn(self._save_quietly(held, tenant, bank))

    async def _save_quietly(self, held: _Held, tenant: str, bank: str) -> None:
        try:
            await self.save_checkpoint(tenant, bank)
        except LarimarError as error:
            held.checkpoint_version = 0
            self._metrics.checkpoints["failed"].inc()
            log.warning(
                "no checkpoint of bank %s: %s", bank, error, tenant=tenant, bank=bank,
                reason=error.reason,
            )  # fmt: skip

    def _start_warming(self) -> None:
        if self._warm_every_s and (self._warmer is None or self._warmer.done()):
            # In a context of its own: what it says belongs to no call.
            self._warmer = self._spawn(self._keep_warm(), contextvars.Context())

    async def _keep_warm(self) -> None:
        """Folds what has come to the banks in use, so that reads find little to do."""
        while True:
            await asyncio.sleep(self._warm_every_s)
            self._tell_what_is_held()
            recent = [key for key in reversed(self._held) if not key[2]][:WARM_BANKS]
            for tenant, bank, _ in recent:
                held = self._held.get((tenant, bank, 0))
                if held is None or held.state is None or held.lock.locked():
                    continue
                async with held.lock:
                    with contextlib.suppress(LarimarError):
                        if held.state is not None:
                            await self._caught_up(held, tenant, bank)
                    self._count((tenant, bank, 0), held)

    def _tell_what_is_held(self) -> None:
        newest = [held for (_, _, at), held in self._held.items() if not at]
        states = [held.state for held in newest if held.state is not None]
        stopped = sum(held.stopped is not None for held in newest)
        self._metrics.holds(states, stopped, self.bytes_held, self.state_budget_bytes)

    def _spawn(self, work, context: contextvars.Context | None = None) -> asyncio.Task:
        task = asyncio.create_task(work, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """Ends what runs in the background."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _shrink(self, keep: Key) -> None:
        past = [key for key in self._past_keys if not self._held[key].lock.locked()]
        for key in past[: max(0, len(past) - MAX_PAST_STATES)]:
            if key != keep:
                self._let_go(key)
        while self._counted_bytes > self.state_budget_bytes:
            idle = (
                key
                for key, held in self._held.items()
                if key != keep and held.state is not None and not held.lock.locked()
            )
            first = next(idle, None)
            if first is None:
                return
            self._let_go(first)

    def _count(self, key: Key, held: _Held) -> None:
        """Takes note of how large a bank has become, if it is held still."""
        if self._held.get(key) is held:
            now = 0 if held.state is None else held.state.bytes_held
            self._counted_bytes += now - held.counted_bytes
            held.counted_bytes = now

    def _let_go(self, key: Key) -> None:
        held = self._held.pop(key, None)
        self._past_keys.pop(key, None)
        if held is not None:
            self._counted_bytes -= held.counted_bytes


def _sums_of(state: BankState) -> tuple[str, str]:
    return state.digest(), state.folded_sha256()
