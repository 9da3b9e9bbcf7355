"""The consumer of a tenant's inbox: takes events in order, applies them, settles each."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
import uuid
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from larimar.edit_events import (
    EditEvent,
    bad_event,
    from_json,
    is_transient,
    named_fact,
    parse_edit,
)
from larimar.errors import (
    DeadlineExceeded,
    InvalidArgument,
    LarimarError,
    NotFound,
    Unavailable,
)
from larimar.v1 import common_pb2
from services.gateway.admission import RATE_LIMITED
from services.gateway.applying import (
    BATCH_EVENTS,
    Outcome,
    apply_edits,
    check_edit,
)
from services.gateway.tenancy import set_tenant
from services.inbox import WARN_LENGTH, Death, Entry, Inbox, Settled
from services.observability.logs import get_logger
from services.observability.metrics import INBOX_EVENTS
from services.observability.traces import consuming, name_trace
from services.rpc import domain_error

log = get_logger("larimar.inbox")

LEASE_S = 15.0
"""Time after which a consumer that died is replaced; nothing is applied past the end of a lease."""
RENEW_S = 5.0
"""Time between renewals: two may fail."""
TAKE_EVENTS = 64
"""Events taken at once: with 64 KiB each, 4 MiB."""
MAX_HELD = 20_000
"""Ids that are held for banks that are paused; beyond it nothing more is taken."""
MAX_BODIES = 1024
"""Events that are held whole: with 64 KiB each, 64 MiB; the others are read again in their turn."""
MAX_WORKING = 8
"""Banks that are worked on at once, each with a batch in memory."""
WAIT_MS = 500
"""How long one look at an empty inbox waits."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
"""Pauses of a bank between tries of an event that met a transient error; they double."""
INBOX = "inbox"
"""Who makes the edits of an inbox, where the audit log names an API key, and their span."""
RETRY_S = 1.0
"""Pause after the inbox itself did not answer, and between looks at another's lease."""
MAX_TRIES = 20
"""Tries of an event before it is dead: with the pauses above, a minute and a half."""


@dataclass
class _Held:
    entry_id: str
    tries: int
    event: EditEvent | None
    """None while its bank is paused: it is read again when its turn comes."""
    raw: bytes | None


@dataclass
class _Lane:
    """The events of one bank that wait."""

    held: deque[_Held] = field(default_factory=deque)
    pause_s: float = 0.0
    """How long its first event waits after a transient error; 0 while all goes well."""
    task: asyncio.Task | None = None


class InboxConsumer:
    """Consumes one tenant's inbox for as long as it runs and holds the lease.

    Args:
        gateway: applies the events (`apply_edits`), and tells of a fact whether it `is_erased`.
        max_tries: tries of an event that meets transient errors before it is dead.
        lease_s: how long a consumer that is silent keeps others out.
    """

    def __init__(
        self,
        gateway: Any,
        inbox: Inbox,
        tenant: str,
        max_tries: int = MAX_TRIES,
        lease_s: float = LEASE_S,
    ) -> None:
        self._gateway = gateway
        self._inbox = inbox
        self._tenant = tenant
        self._max_tries = max_tries
        self._lease_s = lease_s
        self._holder = f"{os.getpid()}-{uuid.uuid4().hex[:12]}"
        self._lease_ends = 0.0
        self._lanes: dict[str, _Lane] = {}
        self._slots = asyncio.Semaphore(MAX_WORKING)

    async def run(self) -> None:
        """Consumes until it is cancelled; then gives the lease back."""
        set_tenant(self._tenant, INBOX)
        try:
            while True:
                try:
                    if await self._renewed():
                        await self._consume()
                except LarimarError as error:
                    log.warning("inbox of %s: %s", self._tenant, error.reason, tenant=self._tenant)
                except Exception as error:
                    domain_error(error)  # which logs it
                await asyncio.sleep(min(RETRY_S, self._lease_s / 3))
        finally:
            with contextlib.suppress(Exception):
                await asyncio.shield(self._inbox.release(self._tenant, self._holder))

    async def _renewed(self) -> bool:
        asked = time.time()
        held = await self._inbox.hold(self._tenant, self._holder, int(self._lease_s * 1000))
        self._lease_ends = asked + self._lease_s if held else 0.0
        return held

    async def _keep_lease(self) -> None:
        while True:
            await asyncio.sleep(min(RENEW_S, self._lease_s / 3))
            try:
                if not await self._renewed():
                    return
                waiting = await self._inbox.length(self._tenant)
                if waiting > WARN_LENGTH:
                    log.warning(
                        "inbox of %s: %d entries wait", self._tenant, waiting, tenant=self._tenant
                    )
            except LarimarError:
                if time.time() > self._lease_ends:
                    return

    async def _consume(self) -> None:
        """Works until the lease is lost or the inbox fails."""
        self._lanes = {}
        lease = asyncio.create_task(self._keep_lease())
        work = asyncio.create_task(self._work())
        try:
            await asyncio.wait({lease, work}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
            log.warning("inbox of %s: the lease was lost", self._tenant, tenant=self._tenant)
        finally:
            for task in (lease, work):
                task.cancel()
            await asyncio.gather(lease, work, return_exceptions=True)

    async def _work(self) -> None:
        try:
            after = ""
            while entries := await self._inbox.taken(self._tenant, after, TAKE_EVENTS):
                after = entries[-1].entry_id
                await self._enter(entries)
                self._start_lanes()
            while True:
                room = MAX_HELD - sum(len(lane.held) for lane in self._lanes.values())
                if room > 0:
                    most = min(TAKE_EVENTS, room)
                    await self._enter(await self._inbox.take(self._tenant, most, WAIT_MS))
                else:
                    await asyncio.sleep(WAIT_MS / 1000)
                self._start_lanes()
        finally:
            tasks = [lane.task for lane in self._lanes.values() if lane.task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _start_lanes(self) -> None:
        """Lets every bank with events work on its own. Raises: what ended a bank's work."""
        for bank, lane in list(self._lanes.items()):
            if lane.task is not None:
                if not lane.task.done():
                    continue
                lane.task.result()
            if lane.held:
                lane.task = asyncio.create_task(self._apply(bank, lane))
            else:
                del self._lanes[bank]

    async def _enter(self, entries: list[Entry]) -> None:
        """Puts entries into their banks' lanes; what is no edit event dies at once."""
        dead = []
        lanes = self._lanes.values()
        bodies = sum(one.event is not None for lane in lanes for one in lane.held)
        for entry in entries:
            try:
                if not entry.event:
                    raise bad_event("the entry has no field 'event'")
                event = check_edit(parse_edit(from_json(entry.event)))
            except InvalidArgument as error:
                dead.append(await self._dead(entry.entry_id, entry.event, error, entry.tries))
                continue
            lane = self._lanes.setdefault(event.bank, _Lane())
            held = _Held(entry.entry_id, max(0, entry.tries - 1), event, entry.event)
            if lane.pause_s or bodies >= MAX_BODIES:
                held.event = held.raw = None
            else:
                bodies += 1
            lane.held.append(held)
        if dead:
            await self._settle(dead)

    async def _apply(self, bank: str, lane: _Lane) -> None:
        """Applies and settles the events of a bank until none is left; pauses after a fault.

        What follows a fault is applied one at a time, to find the event that it is about, and
        twice as many after every success.
        """
        most = BATCH_EVENTS
        while lane.held:
            async with self._slots:
                batch = await self._filled(lane, most)
                if not batch:
                    continue
                events = [one.event for one in batch if one.event is not None]
                try:
                    with consuming(INBOX, [event.trace for event in events]):
                        outcomes = await apply_edits(self._gateway, bank, events, self._context)
                except Exception as error:
                    if len(batch) > 1:
                        most = 1
                        continue
                    outcomes = [domain_error(error)]
                failed = await self._settle_batch(lane, batch, outcomes)
            if not failed:
                lane.pause_s = 0.0
                most = min(BATCH_EVENTS, 2 * most)
                continue
            if failed.reason != RATE_LIMITED:
                most = 1
            lane.pause_s = min(2 * lane.pause_s or FIRST_PAUSE_S, LONGEST_PAUSE_S)
            for one in lane.held:
                one.event = one.raw = None
            await asyncio.sleep(lane.pause_s)

    async def _settle_batch(
        self, lane: _Lane, batch: list[_Held], outcomes: Sequence[Outcome]
    ) -> LarimarError | None:
        """Takes what was applied or died out of the lane; the error after which an event is to be
        tried again."""
        settled: list[Settled] = []
        again = None
        for one, outcome in zip(batch, outcomes, strict=False):
            if not isinstance(outcome, LarimarError):
                settled.append(Settled(one.entry_id))
                continue
            if outcome.reason != RATE_LIMITED:  # which says nothing of the event
                one.tries += 1
            if not is_transient(outcome) or one.tries >= self._max_tries:
                settled.append(await self._dead(one.entry_id, one.raw or b"", outcome, one.tries))
                continue
            again = outcome
            INBOX_EVENTS.labels("retried").inc()
            log.info(
                "inbox of %s: entry %s met %s, try %d",
                self._tenant,
                one.entry_id,
                outcome.reason,
                one.tries,
                tenant=self._tenant,
                entry_id=one.entry_id,
                reason=outcome.reason,
            )
        if settled:
            await self._settle(settled)
            done = {one.entry_id for one in settled}
            lane.held = deque(one for one in lane.held if one.entry_id not in done)
        return again

    async def _filled(self, lane: _Lane, most: int) -> list[_Held]:
        """The first events of a lane, read again where they were let go; erased ones leave it."""
        batch = list(lane.held)[:most]
        missing = [one for one in batch if one.event is None]
        if missing:
            found = await self._inbox.read(self._tenant, [one.entry_id for one in missing])
            for one, raw in zip(missing, found, strict=True):
                if raw is None:
                    lane.held.remove(one)
                else:
                    one.event, one.raw = parse_edit(from_json(raw)), raw
        return [one for one in batch if one.event is not None]

    def _context(self) -> common_pb2.CallContext:
        context = common_pb2.CallContext(tenant=self._tenant, deadline_unix_s=self._lease_ends)
        return name_trace(context)

    async def _settle(self, outcomes: list[Settled]) -> None:
        await self._inbox.settle(self._tenant, outcomes)
        for outcome in outcomes:
            INBOX_EVENTS.labels("applied" if outcome.death is None else "died").inc()
            if outcome.death is not None:
                log.warning(
                    "inbox of %s: entry %s is dead after %d tries: %s",
                    self._tenant,
                    outcome.entry_id,
                    outcome.death.tries,
                    outcome.death.reason,
                    tenant=self._tenant,
                    entry_id=outcome.entry_id,
                    reason=outcome.death.reason,
                )

    async def _dead(self, entry_id: str, event: bytes, error: LarimarError, tries: int) -> Settled:
        """An entry that died. Of an erased fact the letter keeps no text, whatever else was wrong.

        Where memory cannot tell, an event that died of a fault of the pipeline keeps its text, as
        it may be applied later, and one that was refused for its own sake does not.
        """
        message = error.message
        erased: bool | None = error.reason == "ERASED"
        if not erased:
            erased = await self._is_erased(event, is_transient(error))
        if erased is None and not is_transient(error):
            message += "; its text is not kept, as memory cannot tell whether its fact was erased"
            erased = True
        return Settled(entry_id, Death(b"" if erased else event, error.reason, message, tries))

    async def _is_erased(self, event: bytes, at_once: bool) -> bool | None:
        """Whether an event names an erased fact; None where memory cannot tell.

        Args:
            at_once: not to wait for a memory that does not answer.
        """
        named = named_fact(event)
        if named is None:
            return False
        while True:
            try:
                return await self._gateway.is_erased(*named, self._context())
            except Exception as error:
                found = domain_error(error)
            if isinstance(found, NotFound | InvalidArgument):  # no such bank, or none can have it
                return False
            if at_once or not isinstance(found, Unavailable | DeadlineExceeded):
                return None
            await asyncio.sleep(RETRY_S)
