"""How much of a pipeline a tenant may use: rates of calls, and facts and banks that it may hold.

Every call, by gRPC, HTTP, MCP or the inbox, comes by here before anything is computed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Protocol

from larimar.errors import LarimarError, ResourceExhausted
from services.settings import TenantLimits

log = logging.getLogger("larimar.admission")

RATE_LIMITED = "RATE_LIMITED"
"""Reason of a call that comes sooner than its tenant's rate allows."""
MAX_HELD = 20_000
"""Buckets and counts that a gateway remembers, a few hundred bytes each; one that was forgotten
begins anew, full."""
LOOK_S = 5.0
"""How long a bank's number of facts is taken to be what it was, plus what was written since."""
TENANT_LOOK_S = 60.0
"""The same of all facts of a tenant: a look asks for each of its banks."""
AGAIN_S = 1.0
"""Least time between two looks of which one is for a call that would be refused."""
FULL_RETRY_S = 5.0
"""What a caller is told to wait who met a full bank: somebody has to forget or raise a limit."""


class Bucket:
    """A token bucket: a rate, and how much may be taken at once after a pause.

    Args:
        rate_per_s: tokens that come in a second.
        burst: tokens that it holds at most.
    """

    def __init__(self, rate_per_s: float, burst: float, now: float) -> None:
        self._rate = rate_per_s
        self._burst = burst
        self._tokens = burst
        self._seen = now

    def take(self, count: float, now: float) -> float:
        """Takes tokens and gives 0; or takes none, and gives the seconds until they are there.

        More than the bucket holds is given by a full one, and leaves a debt.
        """
        self._fill(now)
        missing = min(count, self._burst) - self._tokens
        if missing > 0:
            return missing / self._rate
        self._tokens -= count
        return 0.0

    def owe(self, count: float, now: float) -> None:
        """Takes tokens for what was done already."""
        self._fill(now)
        self._tokens -= count

    def _fill(self, now: float) -> None:
        self._tokens = min(self._burst, self._tokens + (now - self._seen) * self._rate)
        self._seen = now


@dataclass
class _Count:
    """A number of facts: as it was seen, and what was written since."""

    facts: int | None = None
    """None before the first look has answered."""
    written: int = 0
    looked_at: float = float("-inf")
    look: asyncio.Task | None = None

    def passes(self, most: int, more: int) -> bool:
        """Whether so many more are, as far as is known, too many."""
        return self.facts is not None and self.facts + self.written + more > most


@dataclass(eq=False)
class _Making:
    """A bank that some call makes, or finds, and the facts that come with it."""

    bank: str
    facts: int


class Holdings(Protocol):
    """What a tenant holds, as far as a call on one of its banks can see."""

    async def by_bank(self) -> dict[str, int]:
        """Live facts of each bank of the tenant, by its name. Cost: a look at each."""
        ...

    async def in_bank(self) -> int:
        """Live facts of the bank."""
        ...

    async def in_tenant(self) -> int:
        """Live facts of all banks of the tenant. Cost: a look at each."""
        ...

    async def is_live(self, fact_id: str) -> bool:
        """Whether the bank has the fact."""
        ...


class Admission:
    """Lets a tenant's calls in, or says why not; one for each gateway.

    Args:
        limits: of a tenant.
        replicas: gateways that share the load: each lets in its part of the rates.
        now: a clock in seconds that never goes back.
    """

    def __init__(
        self,
        limits: Callable[[str], TenantLimits],
        replicas: int = 1,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits
        self._replicas = max(1, replicas)
        self._now = now
        self._buckets: OrderedDict[Hashable, Bucket] = OrderedDict()
        self._counts: OrderedDict[Hashable, _Count] = OrderedDict()
        self._making: dict[str, list[_Making]] = {}

    def limits(self, tenant: str) -> TenantLimits:
        """What holds for a tenant."""
        return self._limits(tenant)

    def edits(self, tenant: str, count: int) -> None:
        """Lets edits in. Raises: ResourceExhausted, RATE_LIMITED, with the time to wait."""
        self._take(tenant, "edit", count)

    def asks(self, tenant: str, count: int = 1) -> None:
        """Lets questions in. Raises: ResourceExhausted, RATE_LIMITED, with the time to wait."""
        self._take(tenant, "ask", count)

    def reads(self, tenant: str, count: int = 1) -> None:
        """Lets what lists in. Raises: ResourceExhausted, RATE_LIMITED, with the time to wait."""
        self._take(tenant, "read", count)

    def imports(self, tenant: str, count: int = 1) -> None:
        """Lets an import in. Raises: ResourceExhausted, RATE_LIMITED, with the time to wait."""
        self._take(tenant, "import", count)

    def owe(self, tenant: str, kind: str, count: int) -> None:
        """Counts what was not known before it was done, as the edits of a merge.

        Args:
            kind: one of services.settings.RATED.
        """
        bucket = self._bucket(tenant, kind)
        if bucket is not None:
            bucket.owe(count, self._now())

    def owe_page(self, tenant: str, given: int) -> None:
        """Counts what a page of a list gave beyond the one read that it was let in for."""
        self.owe(tenant, "read", max(0, given - 1))

    async def turn(self, tenant: str, kind: str, count: int) -> None:
        """Waits until a stream that was let in may go on by so many: it is held up, never refused.

        Args:
            kind: one of services.settings.RATED.
        """
        bucket = self._bucket(tenant, kind)
        while bucket is not None and (wait_s := bucket.take(count, self._now())):
            await asyncio.sleep(wait_s)

    @contextlib.asynccontextmanager
    async def making(
        self, tenant: str, bank: str, held: Holdings, facts: int = 0
    ) -> AsyncIterator[None]:
        """Keeps a place for a bank that the block makes or finds, and for the facts it then has.

        What was let in before and is not there yet counts as if it were, so that calls that come
        together pass no limit.

        Raises:
            ResourceExhausted: TOO_MANY_BANKS, BANK_QUOTA or TENANT_QUOTA.
        """
        before = list(self._making.setdefault(tenant, []))
        mine = _Making(bank, facts)
        self._making[tenant].append(mine)
        try:
            await self._check_room(tenant, mine, before, held)
            yield
        finally:
            self._making[tenant].remove(mine)
            if not self._making[tenant]:
                del self._making[tenant]

    async def _check_room(
        self, tenant: str, mine: _Making, before: list[_Making], held: Holdings
    ) -> None:
        limits = self._limits(tenant)
        if limits.bank_facts and mine.facts > limits.bank_facts:
            raise ResourceExhausted(
                _full(f"bank {mine.bank!r}", limits.bank_facts), "BANK_QUOTA", FULL_RETRY_S
            )
        if not limits.banks and not (limits.tenant_facts and mine.facts):
            return
        there = await held.by_bank()
        for one in before:
            there[one.bank] = max(one.facts, there.get(one.bank, 0))
        if limits.banks and mine.bank not in there and len(there) >= limits.banks:
            raise ResourceExhausted(
                f"tenant {tenant!r} has {len(there)} banks, those that are being made counted, and "
                f"its limit is {limits.banks}: delete one",
                "TOO_MANY_BANKS",
                FULL_RETRY_S,
            )
        others = sum(count for name, count in there.items() if name != mine.bank)
        if limits.tenant_facts and mine.facts and others + mine.facts > limits.tenant_facts:
            raise ResourceExhausted(
                _full(f"tenant {tenant!r}", limits.tenant_facts), "TENANT_QUOTA", FULL_RETRY_S
            )

    async def facts(self, tenant: str, bank: str, fact_ids: Iterable[str], held: Holdings) -> None:
        """Lets facts be written to a bank; one that is live already takes no room.

        Counts are looked up beside the calls, and only one that would be refused waits for a new
        look: what was written since the last may have been no new fact. So what is written between
        two looks, here and by other gateways, may pass a limit.

        Raises:
            ResourceExhausted: BANK_QUOTA or TENANT_QUOTA.
        """
        limits, wanted = self._limits(tenant), set(fact_ids)
        counts = []
        if limits.bank_facts:
            count = self._count((tenant, bank), held.in_bank, LOOK_S)
            if await self._is_full(count, limits.bank_facts, wanted, held, held.in_bank):
                raise ResourceExhausted(
                    _full(f"bank {bank!r}", limits.bank_facts), "BANK_QUOTA", FULL_RETRY_S
                )
            counts.append(count)
        if limits.tenant_facts:
            count = self._count(tenant, held.in_tenant, TENANT_LOOK_S)
            if await self._is_full(count, limits.tenant_facts, wanted, held, held.in_tenant):
                raise ResourceExhausted(
                    _full(f"tenant {tenant!r}", limits.tenant_facts), "TENANT_QUOTA", FULL_RETRY_S
                )
            counts.append(count)
        for count in counts:
            count.written += len(wanted)

    def _take(self, tenant: str, kind: str, count: int) -> None:
        bucket = self._bucket(tenant, kind)
        wait_s = bucket.take(count, self._now()) if bucket is not None else 0.0
        if wait_s:
            raise ResourceExhausted(
                f"tenant {tenant!r} makes more {kind}s than its rate allows: nothing was done; try "
                f"again in {wait_s:.2f} s",
                RATE_LIMITED,
                wait_s,
            )

    def _bucket(self, tenant: str, kind: str) -> Bucket | None:
        """The bucket of a tenant and kind of call; None where nothing is limited."""
        key = tenant, kind
        bucket = self._buckets.get(key)
        if bucket is None:
            rate, burst = self._limits(tenant).rate(kind)
            if not rate:
                return None
            part = max(1.0, burst / self._replicas)
            bucket = self._buckets[key] = Bucket(rate / self._replicas, part, self._now())
        _use(self._buckets, key)
        return bucket

    def _count(self, key: Hashable, look: Callable[[], Awaitable[int]], look_s: float) -> _Count:
        """What is known of a number of facts; looks again, beside the call, when that is old."""
        count = self._counts.setdefault(key, _Count())
        _use(self._counts, key)
        self._begin_look(count, look, look_s)
        return count

    async def _is_full(
        self,
        count: _Count,
        most: int,
        wanted: set[str],
        held: Holdings,
        look: Callable[[], Awaitable[int]],
    ) -> bool:
        """Whether facts, of which some are new, are too many, by a new look where they seem so."""
        if not count.passes(most, len(wanted)) or not await _any_new(wanted, held):
            return False
        self._begin_look(count, look, AGAIN_S)
        if count.look is not None:
            await asyncio.wait({count.look})
        return count.passes(most, len(wanted))

    def _begin_look(self, count: _Count, look: Callable[[], Awaitable[int]], look_s: float) -> None:
        """Looks, beside the call, unless somebody does or the last look is no older than that."""
        if self._now() - count.looked_at > look_s and (count.look is None or count.look.done()):
            count.look = asyncio.ensure_future(self._look(count, look, count.written))

    async def _look(
        self, count: _Count, look: Callable[[], Awaitable[int]], written_before: int
    ) -> None:
        try:
            count.facts = await look()
            count.written -= written_before
        except LarimarError as error:
            log.info("a tenant's facts cannot be counted: %s", error.reason)
        count.looked_at = self._now()


async def _any_new(fact_ids: Iterable[str], held: Holdings) -> bool:
    for fact_id in fact_ids:
        if not await held.is_live(fact_id):
            return True
    return False


def _full(whose: str, most: int) -> str:
    return f"{whose} is at its limit of {most} facts: forget some, or ask the operator for more"


def _use(held: OrderedDict, key: Hashable) -> None:
    """Marks an entry as used, and drops those that were used least recently."""
    held.move_to_end(key)
    while len(held) > MAX_HELD:
        held.popitem(last=False)
