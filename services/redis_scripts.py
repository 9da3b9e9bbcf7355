"""The scripts of the log in Redis, what they are given, and how their answers are read.

Each script is atomic and touches the keys of one bank.

KEYS are whole keys; ARGV holds prefixes of keys that are named after versions and uploads,
which lie in the same slot. What the keys hold is said in services/redis_log.py.
"""

from __future__ import annotations

import hashlib
import os

from larimar.memory import (
    Event,
    Kind,
    next_chain,
    request_hmac,
    salted_sha256,
)
from services.log import Append
from services.log_rules import SALT_BYTES, damaged

NO_BANK = 0
"""What a script returns when the bank has no configuration."""
KINDS = {kind.value: kind for kind in Kind}


class Script:
    """A script that runs by its digest and is sent whole when the server does not hold it."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.sha1 = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
        self.reads_only = "no-writes" in source.partition("\n")[0]


APPEND = Script("""#!lua
-- Appends a batch of events to the log of one bank: all of it, durably, or nothing.
--
-- KEYS: config, log, facts, events of the bank.
-- ARGV: prefix of its payload keys, most events of a bank, then six for each item:
--       kind, event id, fact id, HMAC of the request, salted SHA-256, salt and payload.
-- Returns 0 when there is no such bank, else for each item
--       its version (a number) when it was appended;
--       the state of its fact (none, forgotten, erased) or "full" when it is refused;
--       {version, HMAC, kind, salt} of the entry that has its event id already.
--
-- Fields of a log entry, in this order: kind fact event time_ms sha256 chain.

if redis.call('EXISTS', KEYS[1]) == 0 then
  return 0
end

local SALT_BYTES = 16
local payload_prefix, most_events = ARGV[1], tonumber(ARGV[2])

local version, chain = 0, ''
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
if last then
  version = tonumber(string.match(last[1], '^%d+'))
  chain = last[2][12]
end

local now = redis.call('TIME')
local time_ms = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000))

-- What a fact is now; a live fact holds its version, a forgotten one minus that of its FORGET.
local function fact_state(fact_id)
  local held = redis.call('HGET', KEYS[3], fact_id)
  if not held then
    return 'none'
  elseif held == 'erased' then
    return 'erased'
  elseif string.sub(held, 1, 1) == '-' then
    return 'forgotten'
  end
  return 'live'
end

local function known_entry(known)
  local old, hmac = string.match(known, '^(%d+):(%x*)$')
  local entry = redis.call('XRANGE', KEYS[2], old .. '-0', old .. '-0')[1]
  local salt = redis.call('GETRANGE', payload_prefix .. old, 0, SALT_BYTES - 1)
  return {old, hmac, entry and entry[2][2] or '', salt}
end

local function append(kind, event_id, fact_id, hmac, sha256, payload)
  version = version + 1
  local id = string.format('%.0f', version)
  chain = redis.sha1hex(table.concat(
    {chain, id, kind, fact_id, event_id, time_ms, sha256}, '\\0'))
  redis.call('XADD', KEYS[2], id .. '-0', 'kind', kind, 'fact', fact_id, 'event', event_id,
    'time_ms', time_ms, 'sha256', sha256, 'chain', chain)
  redis.call('HSET', KEYS[4], event_id, id .. ':' .. hmac)
  if kind == 'W' then
    redis.call('SET', payload_prefix .. id, payload)
    redis.call('HSET', KEYS[3], fact_id, id)
  else
    redis.call('HSET', KEYS[3], fact_id, '-' .. id)
  end
  return version
end

local results = {}
for i = 3, #ARGV, 6 do
  local kind, event_id, fact_id = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local known = redis.call('HGET', KEYS[4], event_id)
  local state = known or fact_state(fact_id)
  local result
  if known then
    result = known_entry(known)
  elseif state == 'erased' or (kind == 'F' and state ~= 'live') then
    result = state
  elseif version >= most_events then
    result = 'full'
  else
    result = append(kind, event_id, fact_id, ARGV[i + 3], ARGV[i + 4], ARGV[i + 5])
  end
  results[#results + 1] = result
end
return results
""")

# The entry at `after`, when there is one, and those behind it; the first payloads with them.
PAGE = Script("""#!lua flags=no-writes
-- KEYS: config, log. ARGV: prefix of payload keys, after, limit, payloads, payload bytes.
-- Returns {entries, payload ...}; an entry is its id and six values, all joined by NUL.
if redis.call('EXISTS', KEYS[1]) == 0 then
  return 0
end
local after, limit, inline = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local bytes_left = tonumber(ARGV[5])
local entries = redis.call('XRANGE', KEYS[2], ARGV[2] .. '-0', '+', 'COUNT',
  after > 0 and limit + 1 or limit)
local texts, payloads = {}, {''}
for i, entry in ipairs(entries) do
  local version, f = string.match(entry[1], '^%d+'), entry[2]
  texts[i] = table.concat({version, f[2], f[4], f[6], f[8], f[10], f[12]}, '\\0')
  if inline >= 0 and tonumber(version) > after then
    local key = ARGV[1] .. version
    bytes_left = bytes_left - redis.call('STRLEN', key)
    if #payloads <= inline then
      payloads[#payloads + 1] = redis.call('GET', key)
    end
    if bytes_left <= 0 then
      break
    end
  end
end
payloads[1] = table.concat(texts, '\\0')
return payloads
""")

PAYLOADS = Script("""#!lua flags=no-writes
-- KEYS: config, log. ARGV: prefix of payload keys, versions. Returns {SHA-256, payload, ...}.
if redis.call('EXISTS', KEYS[1]) == 0 then
  return 0
end
local found = {}
for i = 2, #ARGV do
  local entry = redis.call('XRANGE', KEYS[2], ARGV[i] .. '-0', ARGV[i] .. '-0')[1]
  found[#found + 1] = entry and entry[2][10] or ''
  found[#found + 1] = redis.call('GET', ARGV[1] .. ARGV[i])
end
return found
""")

HEAD = Script("""#!lua flags=no-writes
-- KEYS: config, log. Returns {version, chain}.
if redis.call('EXISTS', KEYS[1]) == 0 then
  return 0
end
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
return last and {string.match(last[1], '^%d+'), last[2][12]} or {'0', ''}
""")

MAKE = Script("""#!lua
-- KEYS: config, then the bank's other keys. ARGV: config.
-- Returns {1} when made, {0, config} when there is a bank, {-1} when an old one is half removed.
local held = redis.call('GET', KEYS[1])
if held then
  return {0, held}
end
for i = 2, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 1 then
    return {-1}
  end
end
redis.call('SET', KEYS[1], ARGV[1])
return {1}
""")

# Removes what a bank without a configuration has left, in steps; stopping anywhere is harmless.
SWEEP = Script("""#!lua
-- KEYS: config, log, facts, events, checkpoints, uploads. ARGV: prefix of payload keys, of parts,
-- entries to remove. Returns 1 when there is more to do.
if redis.call('EXISTS', KEYS[1]) == 1 then
  return 0
end
local entries = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', ARGV[3])
for _, entry in ipairs(entries) do
  redis.call('UNLINK', ARGV[1] .. string.match(entry[1], '^%d+'))
  redis.call('XDEL', KEYS[2], entry[1])
end
if #entries == tonumber(ARGV[3]) then
  return 1
end
local uploads = redis.call('HGETALL', KEYS[6])
for i = 1, #uploads, 2 do
  for n = 0, tonumber(string.match(uploads[i + 1], ':(%d+)$')) - 1 do
    redis.call('UNLINK', ARGV[2] .. uploads[i] .. ':' .. n)
  end
end
redis.call('UNLINK', KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6])
return 0
""")

PUT_PART = Script("""#!lua
-- KEYS: config, uploads, part. ARGV: upload, number of parts, bytes.
if redis.call('EXISTS', KEYS[1]) == 0 then
  return 0
end
redis.call('HSET', KEYS[2], ARGV[1], redis.call('TIME')[1] .. ':' .. ARGV[2])
redis.call('SET', KEYS[3], ARGV[3])
return 1
""")

PUBLISH = Script("""#!lua
-- KEYS: config, checkpoints, uploads. ARGV: prefix of parts, upload, version, JSON, how many to
-- keep, seconds until an unpublished upload counts as abandoned.
if redis.call('EXISTS', KEYS[1]) == 0 or redis.call('HEXISTS', KEYS[3], ARGV[2]) == 0 then
  return 0
end
local function published()
  local found = {}
  for _, record in ipairs(redis.call('HVALS', KEYS[2])) do
    found[string.match(record, '^[^:]*')] = true
  end
  return found
end
local before = published()
before[ARGV[2]] = true
redis.call('HSET', KEYS[2], ARGV[3], ARGV[2] .. ':' .. ARGV[4])
local versions = redis.call('HKEYS', KEYS[2])
table.sort(versions, function(a, b) return tonumber(a) > tonumber(b) end)
for i = tonumber(ARGV[5]) + 1, #versions do
  redis.call('HDEL', KEYS[2], versions[i])
end
local after, now = published(), redis.call('TIME')[1]
local uploads = redis.call('HGETALL', KEYS[3])
for i = 1, #uploads, 2 do
  local upload = uploads[i]
  local since, parts = string.match(uploads[i + 1], '^(%d+):(%d+)$')
  if not after[upload] and (before[upload] or now - since > tonumber(ARGV[6])) then
    for n = 0, parts - 1 do
      redis.call('UNLINK', ARGV[1] .. upload .. ':' .. n)
    end
    redis.call('HDEL', KEYS[3], upload)
  end
end
return 1
""")


def append_arguments(item: Append) -> tuple[str | bytes, ...]:
    """What the append script takes for one item; the salt is made here."""
    ids = (str(item.kind), item.event_id, item.fact_id)
    if item.payload is None:
        return (*ids, request_hmac(b"", item.body), "", b"")
    salt = os.urandom(SALT_BYTES)
    salted = salt + item.payload
    return (*ids, request_hmac(salt, item.body), salted_sha256(salted), salted)


def read_entries(bank: str, text: bytes, after: int) -> tuple[list[Event], str | None]:
    """The entries behind `after`, and the chain value at it, None when there is no such entry.

    Raises:
        DataLoss: a gap, a broken chain, or an entry that is none.
    """
    try:
        fields = text.decode().split("\0") if text else []
    except UnicodeDecodeError as error:
        raise damaged(bank, after + 1, "an entry behind it is not text") from error
    at_after: str | None = None if after else ""
    if after and fields and fields[0] == str(after):
        at_after = fields[6]
        del fields[:7]
    chain, expected = at_after, after
    events: list[Event] = []
    for i in range(0, len(fields), 7):
        expected += 1
        try:
            version, kind, fact_id, event_id, time_ms, sha256, entry_chain = fields[i : i + 7]
            event = Event(
                int(version), KINDS[kind], fact_id, event_id, int(time_ms), sha256, entry_chain
            )
        except (ValueError, KeyError) as error:
            raise damaged(bank, expected, "the entry is malformed") from error
        if chain is None or event.version != expected:
            raise damaged(bank, expected if chain is not None else after, "the entry is missing")
        chain = next_chain(chain, expected, kind, fact_id, event_id, event.time_ms, sha256)
        if chain != entry_chain:
            raise damaged(bank, expected, "the entry does not follow from the one before (chain)")
        events.append(event)
    return events, at_after


def read_payload(bank: str, version: int, sha256: str, salted: bytes | None) -> bytes | None:
    """The payload without its salt; None for a FORGET. Raises DataLoss."""
    if not sha256:
        return None
    if salted is None:
        raise damaged(bank, version, "the payload is missing")
    if salted_sha256(salted) != sha256:
        raise damaged(bank, version, "the payload's bytes have changed (SHA-256 differs)")
    return salted[SALT_BYTES:]
