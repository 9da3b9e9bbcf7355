"""The inbox in Redis: streams that producers in the cluster append to.

All keys of a tenant share one hash tag, so that one script touches one slot:

- ``{tenant}:inbox``: stream; an entry has the field ``event``, a CloudEvent in JSON. A producer
  needs nothing but XADD on this key. The consumer group is ``larimar``.
- ``{tenant}:inbox:lease``: who consumes; gone when that one has been silent for a while.
- ``{tenant}:dead``: stream of the events that could not be applied.

An entry that is settled is deleted, so that neither stream keeps texts that the log has taken.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from larimar.edit_events import concerns
from larimar.errors import LarimarError
from services.inbox import MAX_PAGE, Entry, Letter, Settled, check_letter_id, cut, order
from services.log_rules import check_names
from services.redis_calls import TIMEOUT_S, RedisCalls
from services.redis_scripts import Script

GROUP = "larimar"
"""The consumer group; its one consumer has the same name, whoever holds the lease."""

HOLD = Script(
    "hold",
    """#!lua
-- Takes or renews a lease. KEYS: lease. ARGV: holder, milliseconds. Returns 1 or 0.
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
""",
)
RELEASE = Script(
    "release",
    """#!lua
-- Gives a lease back. KEYS: lease. ARGV: holder.
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
""",
)
TAKEN = Script(
    "taken",
    """#!lua
-- Claims entries that were taken and not settled. KEYS: inbox. ARGV: group, first id, count.
-- Returns for each its id, its fields, and how often it was delivered before.
local found = {}
for _, row in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[2], '+', ARGV[3])) do
  local claimed = redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[1], 0, row[1])
  if claimed[1] then
    table.insert(found, {claimed[1][1], claimed[1][2], row[4]})
  else  -- deleted while it was pending
    redis.call('XACK', KEYS[1], ARGV[1], row[1])
  end
end
return found
""",
)
SETTLE = Script(
    "settle",
    """#!lua
-- Takes entries out of the inbox; those that died become dead letters.
-- KEYS: inbox, dead letters. ARGV: group, then five for each entry: id, reason (empty: it was
-- applied), message, tries, event. Returns how many were still there.
local settled = 0
local now = redis.call('TIME')
local time_ms = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000))
for i = 2, #ARGV, 5 do
  local acknowledged = redis.call('XACK', KEYS[1], ARGV[1], ARGV[i])
  local deleted = redis.call('XDEL', KEYS[1], ARGV[i])
  if acknowledged == 1 and deleted == 1 then
    settled = settled + 1
    if ARGV[i + 1] ~= '' then
      redis.call('XADD', KEYS[2], '*', 'event', ARGV[i + 4], 'reason', ARGV[i + 1],
        'message', ARGV[i + 2], 'tries', ARGV[i + 3], 'time_ms', time_ms, 'entry', ARGV[i])
    end
  end
end
return settled
""",
)
REQUEUE = Script(
    "requeue",
    """#!lua
-- Moves dead letters back to the inbox. KEYS: inbox, dead letters. ARGV: letter ids.
local moved = 0
for _, id in ipairs(ARGV) do
  local letter = redis.call('XRANGE', KEYS[2], id, id)[1]
  if letter and letter[2][2] ~= '' then
    redis.call('XADD', KEYS[1], '*', 'event', letter[2][2])
    redis.call('XDEL', KEYS[2], letter[1])
    moved = moved + 1
  end
end
return moved
""",
)
REMOVE = Script(
    "remove",
    """#!lua
-- Deletes entries, acknowledged or not. KEYS: stream. ARGV: group, or empty; ids.
local removed = 0
for i = 2, #ARGV do
  if ARGV[1] ~= '' then
    redis.call('XACK', KEYS[1], ARGV[1], ARGV[i])
  end
  removed = removed + redis.call('XDEL', KEYS[1], ARGV[i])
end
return removed
""",
)


class _Keys:
    def __init__(self, tenant: str) -> None:
        check_names(tenant)
        self.inbox = f"{{{tenant}}}:inbox"
        self.lease = f"{{{tenant}}}:inbox:lease"
        self.dead = f"{{{tenant}}}:dead"


class RedisInbox:
    """The inboxes of one Redis or Valkey server; bound to one event loop.

    Args:
        url: as of services.redis_log.RedisLog.
        timeout_s: longest round trip, seconds.
    """

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S) -> None:
        self._calls = RedisCalls(url, timeout_s)
        self._timeout_s = timeout_s
        self._has_group: set[str] = set()

    async def append(self, tenant: str, event: bytes) -> str:
        """See Inbox."""
        return (await self._calls.call("XADD", _Keys(tenant).inbox, "*", "event", event)).decode()

    async def length(self, tenant: str) -> int:
        """See Inbox."""
        return await self._calls.call("XLEN", _Keys(tenant).inbox)

    async def waited_s(self, tenant: str) -> float:
        """See Inbox."""
        rows = _rows(await self._calls.call("XRANGE", _Keys(tenant).inbox, "-", "+", "COUNT", 1))
        if not rows:
            return 0.0
        came_ms, _ = order(rows[0][0].decode())
        return max(0.0, time.time() - came_ms / 1000)

    async def hold(self, tenant: str, holder: str, lease_ms: int) -> bool:
        """See Inbox."""
        return bool(await self._calls.run(HOLD, [_Keys(tenant).lease], [holder, lease_ms]))

    async def release(self, tenant: str, holder: str) -> None:
        """See Inbox."""
        await self._calls.run(RELEASE, [_Keys(tenant).lease], [holder])

    async def take(self, tenant: str, count: int, wait_ms: int) -> list[Entry]:
        """See Inbox. Waits at most half of the round trip's limit."""
        key = _Keys(tenant).inbox
        await self._make_group(tenant, key)
        wait_ms = max(1, min(wait_ms, int(self._timeout_s * 500)))
        found = await self._on_group(
            tenant,
            self._calls.call(
                "XREADGROUP", "GROUP", GROUP, GROUP, "COUNT", count, "BLOCK", wait_ms,
                "STREAMS", key, ">",
            ),
        )  # fmt: skip
        if not found:
            return []
        streams = found.items() if isinstance(found, dict) else found
        return [Entry(entry_id.decode(), _event(fields)) for _, rows in streams
                for entry_id, fields in _rows(rows)]  # fmt: skip

    async def taken(self, tenant: str, after: str, count: int) -> list[Entry]:
        """See Inbox."""
        key = _Keys(tenant).inbox
        await self._make_group(tenant, key)
        first = f"({after}" if after else "-"
        found = await self._on_group(
            tenant, self._calls.run(TAKEN, [key], [GROUP, first, min(count, MAX_PAGE)])
        )
        return [
            Entry(entry_id.decode(), _event(fields), int(tries))
            for entry_id, fields, tries in found
        ]

    async def read(self, tenant: str, entry_ids: Sequence[str]) -> list[bytes | None]:
        """See Inbox."""
        key, events = _Keys(tenant).inbox, []
        for entry_id in entry_ids:
            rows = _rows(await self._calls.call("XRANGE", key, entry_id, entry_id))
            events.append(_event(rows[0][1]) if rows else None)
        return events

    async def settle(self, tenant: str, outcomes: Sequence[Settled]) -> int:
        """See Inbox."""
        keys, arguments = _Keys(tenant), [GROUP]
        for outcome in outcomes:
            death = outcome.death
            arguments.append(outcome.entry_id)
            arguments += (
                [death.reason, death.message, death.tries, cut(death.event)]
                if death
                else ["", "", 0, ""]
            )
        return await self._calls.run(SETTLE, [keys.inbox, keys.dead], arguments)

    async def letters(self, tenant: str, after: str, count: int) -> tuple[list[Letter], int]:
        """See Inbox."""
        key = _Keys(tenant).dead
        first = f"({check_letter_id(after)}" if after else "-"
        rows = _rows(
            await self._calls.call("XRANGE", key, first, "+", "COUNT", min(count, MAX_PAGE))
        )
        return [_letter(*row) for row in rows], await self._calls.call("XLEN", key)

    async def requeue(self, tenant: str, letter_ids: Sequence[str]) -> int:
        """See Inbox."""
        keys = _Keys(tenant)
        return await self._calls.run(
            REQUEUE, [keys.inbox, keys.dead], [check_letter_id(one) for one in letter_ids]
        )

    async def drop(self, tenant: str, letter_ids: Sequence[str]) -> int:
        """See Inbox."""
        return await self._calls.run(
            REMOVE, [_Keys(tenant).dead], ["", *(check_letter_id(one) for one in letter_ids)]
        )

    async def remove_facts(self, tenant: str, bank: str, fact_ids: Sequence[str]) -> int:
        """See Inbox. Cost: reads both streams whole, a page at a time."""
        keys, wanted, removed = _Keys(tenant), frozenset(fact_ids), 0
        for key, group in ((keys.inbox, GROUP), (keys.dead, "")):
            after = "-"
            while rows := _rows(
                await self._calls.call("XRANGE", key, after, "+", "COUNT", MAX_PAGE)
            ):
                found = [
                    entry_id
                    for entry_id, fields in rows
                    if (_event(fields) or group) and concerns(_event(fields), bank, wanted)
                ]
                if found:
                    removed += await self._calls.run(REMOVE, [key], [group, *found])
                after = "(" + rows[-1][0].decode()
        return removed

    async def close(self) -> None:
        """See Inbox."""
        await self._calls.close()

    async def _make_group(self, tenant: str, key: str) -> None:
        if tenant in self._has_group:
            return
        try:
            await self._calls.call("XGROUP", "CREATE", key, GROUP, "0", "MKSTREAM")
        except LarimarError as error:
            if "BUSYGROUP" not in error.message:
                raise
        self._has_group.add(tenant)

    async def _on_group(self, tenant: str, call: Any) -> Any:
        try:
            return await call
        except LarimarError as error:
            if "NOGROUP" in error.message:  # the stream was deleted: the next call makes it anew
                self._has_group.discard(tenant)
            raise


def _rows(found: Any) -> list[tuple[bytes, Any]]:
    return [(row[0], row[1]) for row in found or ()]


def _fields(found: Any) -> dict[bytes, bytes]:
    """Fields of an entry, which a script gives as a list and a command as a dictionary."""
    if isinstance(found, dict):
        return found
    return dict(zip(found[::2], found[1::2], strict=True)) if found else {}


def _event(fields: Any) -> bytes:
    return _fields(fields).get(b"event", b"")


def _letter(letter_id: bytes, found: Any) -> Letter:
    fields = _fields(found)
    return Letter(
        letter_id.decode(),
        fields.get(b"event", b""),
        fields.get(b"reason", b"").decode(),
        fields.get(b"message", b"").decode(),
        int(fields.get(b"tries", b"0")),
        int(fields.get(b"time_ms", b"0")),
        fields.get(b"entry", b"").decode(),
    )
