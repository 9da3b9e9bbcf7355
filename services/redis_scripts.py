"""The scripts that append to and read a log in Redis. Each is atomic.

KEYS[1] is the configuration of the bank, ARGV[1] the prefix of its family's keys and ARGV[2]
its name. All other keys are named after these and lie in the same slot; what they hold is said
in services/redis_log.py. The scripts that make and remove banks are in redis_bank_scripts.py,
those of checkpoints and records in redis_upkeep_scripts.py.
"""

from __future__ import annotations

import hashlib

from larimar.memory import MAX_ID_BYTES
from services.log_rules import SALT_BYTES

NO_BANK = 0
"""What a script returns when the bank has no configuration."""


class Script:
    """A script that runs by its digest and is sent whole when the server does not hold it.

    Args:
        name: what its calls are called in the metrics.
    """

    def __init__(self, name: str, source: str) -> None:
        self.name = name
        self.source = source
        self.sha1 = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
        self.reads_only = "no-writes" in source.partition("\n")[0]


KEYS = """
local base, bank = ARGV[1], ARGV[2]
local family, erased = base .. 'family', base .. 'erased'
local function key(name, of)
  return base .. (of or bank) .. ':' .. name
end
"""

BANK = (
    KEYS
    + """
if redis.call('EXISTS', key('config')) == 0 then
  return 0
end
"""
)

LINEAGE = """
-- Where a fork comes from: {bank, version, chain}; false for a root.
local origins = {}
local function origin_of(of)
  if origins[of] == nil then
    local text = redis.call('HGET', family, of)
    origins[of] = text and text ~= '' and cjson.decode(text) or false
  end
  return origins[of]
end

-- The bank whose stream holds a version of this bank's history, and the last one of it that
-- belongs to it; nil for this bank itself.
local function owner_of(version)
  local owner, last = bank, nil
  while true do
    local origin = origin_of(owner)
    if not origin or version > origin.version then
      return owner, last
    end
    owner, last = origin.bank, origin.version
  end
end

local function entry_of(owner, version)
  local id = string.format('%.0f-0', version)
  return redis.call('XRANGE', key('log', owner), id, id)[1]
end

local function head_of(of)
  local last = redis.call('XREVRANGE', key('log', of), '+', '-', 'COUNT', 1)[1]
  if last then
    return tonumber(string.match(last[1], '^%d+')), last[2][12]
  end
  local origin = origin_of(of)
  if origin then
    return origin.version, origin.chain
  end
  return 0, ''
end
"""

_WRITING = (
    f"""
local SALT_BYTES, MAX_ID_BYTES = {SALT_BYTES}, {MAX_ID_BYTES}
"""
    + """
local now = redis.call('TIME')
local time_ms = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000))

-- What an event id was used for in a bank's history: version, HMAC, the bank that holds it.
local function used(of, event_id)
  local owner, last = of, nil
  repeat
    local known = redis.call('HGET', key('events', owner), event_id)
    if known then
      local version, hmac = string.match(known, '^(%d+):(%x*)$')
      if last and tonumber(version) > last then
        return nil
      end
      return version, hmac, owner
    end
    local origin = origin_of(owner)
    owner, last = origin and origin.bank, origin and origin.version
  until not owner
  return nil
end

local function known_entry(version, hmac, owner)
  local entry = entry_of(owner, version)
  local salt = redis.call('GETRANGE', key('payload:', owner) .. version, 0, SALT_BYTES - 1)
  return {version, hmac, entry and entry[2][2] or '', salt}
end

-- The newest version of a fact in a bank, '0' for none, and what the bank has for the fact.
local function newest_of(fact_id, of)
  local newest = redis.call('HGET', key('facts', of), fact_id)
  return newest and string.match(newest, '%d+') or '0', newest
end

local any_erased = redis.call('EXISTS', erased) == 1

-- Why an event may not follow, as text, or nil if it may; and the fact's newest version.
local function refused(kind, fact_id, expected)
  if any_erased and redis.call('SISMEMBER', erased, fact_id) == 1 then
    return 'erased'
  end
  local version, newest = newest_of(fact_id)
  if expected ~= '' and expected ~= version then
    return 'changed:' .. version
  elseif kind ~= 'W' and not newest then
    return 'none'
  elseif kind == 'F' and string.sub(newest, 1, 1) == '-' then
    return 'forgotten'
  end
  return nil, version
end

-- Appends to a bank {name, version, chain}, which moves on. `previous` is the fact's newest version
-- there. Fields of an entry, in this order: kind fact event time_ms sha256 chain prev.
local function put(to, kind, event_id, fact_id, previous, hmac, sha256, payload)
  to.version = to.version + 1
  local id = string.format('%.0f', to.version)
  local facts = key('facts', to.name)
  to.chain = redis.sha1hex(table.concat(
    {to.chain, id, kind, fact_id, event_id, time_ms, sha256, previous}, '\\0'))
  redis.call('XADD', key('log', to.name), id .. '-0', 'kind', kind, 'fact', fact_id,
    'event', event_id, 'time_ms', time_ms, 'sha256', sha256, 'chain', to.chain, 'prev', previous)
  redis.call('HSET', key('events', to.name), event_id, id .. ':' .. hmac)
  if kind == 'W' then
    redis.call('SET', key('payload:', to.name) .. id, payload)
    redis.call('HSET', facts, fact_id, id)
  else
    redis.call('HSET', facts, fact_id, '-' .. id)
  end
  return to.version
end

local function opened(name)
  local version, chain = head_of(name)
  return {name = name, version = version, chain = chain}
end
"""
)

ITEM_ARGUMENTS = 7
"""Kind, event id, fact id, HMAC of the request, salted SHA-256, salt and payload, expected."""

# Both scripts return for each item: its version (a number) when it was appended; the reason of
# a refusal as text (none, forgotten, erased, full, changed:<newest version>); or
# {version, HMAC, kind, salt} of the entry that has its event id already.

APPEND = Script(
    "append",
    """#!lua
-- Appends a batch of events to one bank: all of it, durably, or nothing.
-- ARGV[3..4]: most events of a bank, the configuration that the payloads are made for ("" for any);
-- then seven for each item. Returns -1 when the bank has another configuration.
"""
    + BANK
    + LINEAGE
    + _WRITING
    + """
if ARGV[4] ~= '' and redis.call('GET', key('config')) ~= ARGV[4] then
  return -1
end
local most, to, results = tonumber(ARGV[3]), opened(bank), {}
for i = 5, #ARGV, 7 do
  local kind, event_id, fact_id = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local version, hmac, owner = used(bank, event_id)
  local result
  if version then
    result = known_entry(version, hmac, owner)
  else
    local previous
    result, previous = refused(kind, fact_id, ARGV[i + 6])
    if not result and to.version >= most then
      result = 'full'
    end
    result = result
      or put(to, kind, event_id, fact_id, previous, ARGV[i + 3], ARGV[i + 4], ARGV[i + 5])
  end
  results[#results + 1] = result
end
return results
""",
)

_TAKEN = """
-- The first event id of these items that was used for another request; nil for none.
local function first_taken(from)
  for i = from, #ARGV, 7 do
    local version, hmac = used(bank, ARGV[i + 1])
    if version and hmac ~= ARGV[i + 3] then
      return ARGV[i + 1]
    end
  end
end
"""

ERASE_CHECK = Script(
    "erase_check",
    """#!lua flags=no-writes
-- ARGV[3..]: seven for each item, as of ERASE. Returns {the first event id that was used for
-- another request}, {} when none was.
"""
    + BANK
    + LINEAGE
    + _WRITING
    + _TAKEN
    + """
return {first_taken(3)}
""",
)

ERASE = Script(
    "erase",
    """#!lua
-- Appends ERASE events to every bank of a family that has an event of the fact.
-- ARGV[3..4]: 1 to look first whether an event id was used for another request, how many other
-- banks the family has; their names, then seven for each item.
-- Returns -1 when the family has other members than these. Where an event id was found to be used
-- nothing is appended, and what is new gets `taken:<event id>`.
"""
    + BANK
    + LINEAGE
    + _WRITING
    + _TAKEN
    + """
local others = tonumber(ARGV[4])
if math.max(redis.call('HLEN', family), 1) ~= others + 1 then
  return -1
end
local banks = {opened(bank)}
for i = 5, 4 + others do
  if redis.call('HEXISTS', family, ARGV[i]) == 0 then
    return -1
  end
  if redis.call('EXISTS', key('config', ARGV[i])) == 1 then
    banks[#banks + 1] = opened(ARGV[i])
  end
end
local taken = ARGV[3] == '1' and first_taken(5 + others)
local results = {}
for i = 5 + others, #ARGV, 7 do
  local event_id, fact_id, hmac = ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local version, known_hmac, owner = used(bank, event_id)
  local result
  if version then
    result = known_entry(version, known_hmac, owner)
  elseif taken then
    result = 'taken:' .. taken
  else
    result = refused('E', fact_id, ARGV[i + 6])
    if not result then
      for n, to in ipairs(banks) do
        if redis.call('HEXISTS', key('facts', to.name), fact_id) == 1 then
          local free_id = event_id
          while n > 1 and used(to.name, free_id) do
            if #free_id > MAX_ID_BYTES then
              free_id = redis.sha1hex(to.chain .. free_id)
            end
            free_id = free_id .. '@' .. to.name
          end
          local previous = newest_of(fact_id, to.name)
          local at = put(to, 'E', free_id, fact_id, previous, hmac, '', '')
          result = result or at
        end
      end
      redis.call('SADD', erased, fact_id)
      any_erased = true
    end
  end
  results[#results + 1] = result
end
return results
""",
)

PAGE = Script(
    "page",
    """#!lua flags=no-writes
-- The entry at `after`, when there is one, and those behind it up to a fork point at most, with
-- their payloads where they are wanted.
-- ARGV[3..6]: after, limit, 1 if payloads are wanted, bytes of them that end a page.
-- Returns {entries, erase count, owner of the entries behind `after`, 1 when some must be there,
-- payload ...}; an entry is eight values and "1" when its payload was erased, joined by NUL.
"""
    + BANK
    + LINEAGE
    + """
local after, limit, bytes_left = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[6])
local with_payloads = ARGV[5] == '1'
local erase_count = redis.call('SCARD', erased)
local owner, last = owner_of(after + 1)
local from, count, entries = after + 1, limit, {}
if after > 0 then
  local before = owner_of(after)
  if before == owner then
    from, count = after, limit + 1
  else
    entries = {entry_of(before, after)}
  end
end
local stop = last and string.format('%.0f-0', last) or '+'
for _, entry in ipairs(redis.call('XRANGE', key('log', owner),
    string.format('%.0f-0', from), stop, 'COUNT', count)) do
  entries[#entries + 1] = entry
end
local texts, answer = {}, {'', erase_count, owner, last and 1 or 0}
for i, entry in ipairs(entries) do
  local version, f = string.match(entry[1], '^%d+'), entry[2]
  local gone = ''
  if f[2] == 'W' and erase_count > 0 and redis.call('SISMEMBER', erased, f[4]) == 1 then
    gone = '1'
  end
  texts[i] = table.concat(
    {version, f[2], f[4], f[6], f[8], f[10], f[12], f[14] or '', gone}, '\\0')
  if with_payloads and tonumber(version) > after then
    local kept = f[2] == 'W' and gone == ''
    local payload = kept and redis.call('GET', key('payload:', owner) .. version)
    answer[#answer + 1] = payload
    if payload then
      bytes_left = bytes_left - #payload
    end
    if bytes_left <= 0 then
      break
    end
  end
end
answer[1] = table.concat(texts, '\\0')
return answer
""",
)

PAYLOADS = Script(
    "payloads",
    """#!lua flags=no-writes
-- ARGV[3..]: versions. Returns {SHA-256, payload, 1 when its fact was erased, ...}.
"""
    + BANK
    + LINEAGE
    + """
local found = {}
for i = 3, #ARGV do
  local owner = owner_of(tonumber(ARGV[i]))
  local entry = entry_of(owner, tonumber(ARGV[i]))
  local gone = entry and entry[2][2] == 'W'
    and redis.call('SISMEMBER', erased, entry[2][4]) == 1
  found[#found + 1] = entry and entry[2][10] or ''
  found[#found + 1] = not gone and redis.call('GET', key('payload:', owner) .. ARGV[i])
  found[#found + 1] = gone and 1 or 0
end
return found
""",
)

HEAD = Script(
    "head",
    "#!lua flags=no-writes\n-- Returns {version, chain, erase count}.\n"
    + BANK
    + LINEAGE
    + """
local version, chain = head_of(bank)
return {string.format('%.0f', version), chain, redis.call('SCARD', erased)}
""",
)

HISTORY = Script(
    "history",
    """#!lua flags=no-writes
-- Events of a fact, newest first. ARGV[3..5]: fact id, version to begin at ("" for the newest),
-- most events. Returns {version to go on at, entry values as PAGE joins them ...}.
"""
    + BANK
    + LINEAGE
    + """
local at = ARGV[4]
if at == '' then
  at = string.match(redis.call('HGET', key('facts'), ARGV[3]) or '0', '%d+')
end
local found = {''}
while at ~= '0' and #found <= tonumber(ARGV[5]) do
  local entry = entry_of(owner_of(tonumber(at)), tonumber(at))
  local f = entry and entry[2]
  if not f or f[4] ~= ARGV[3] or not f[14] or tonumber(f[14]) >= tonumber(at) then
    return {'damaged', at}
  end
  found[#found + 1] = table.concat(
    {at, f[2], f[4], f[6], f[8], f[10], f[12], f[14], ''}, '\\0')
  at = f[14]
end
found[1] = at
return found
""",
)

REMOVE_PAYLOADS = Script(
    "remove_payloads",
    """#!lua
-- Deletes the payloads that erased facts have in one bank's own stream, newest first.
-- ARGV[3..]: most entries; for each fact its id and the version to begin at ("" for the newest).
-- Returns {how many were deleted, for each fact the version to go on at}.
"""
    + BANK
    + LINEAGE
    + """
local origin, entries_left = origin_of(bank), tonumber(ARGV[3])
local first, results = origin and origin.version or 0, {0}
for i = 4, #ARGV, 2 do
  local fact_id, at = ARGV[i], ARGV[i + 1]
  if at == '' then
    at = string.match(redis.call('HGET', key('facts'), fact_id) or '0', '%d+')
  end
  while at ~= '0' and tonumber(at) > first and entries_left > 0 do
    entries_left = entries_left - 1
    results[1] = results[1] + redis.call('UNLINK', key('payload:') .. at)
    local entry = entry_of(bank, tonumber(at))
    if not entry or entry[2][4] ~= fact_id then
      return {-1, fact_id, at}
    end
    at = entry[2][14]
  end
  results[#results + 1] = tonumber(at) > first and at or '0'
end
return results
""",
)

ERASED = Script(
    "erased",
    "#!lua flags=no-writes\n-- Returns {erased fact ids}.\n"
    + BANK
    + """
return redis.call('SMEMBERS', erased)
""",
)
