"""The scripts of checkpoints, records and searches in Redis. Each is atomic.

Arguments are as in services/redis_scripts.py, but for the two of a search.
"""

from __future__ import annotations

from services.redis_scripts import BANK, LINEAGE, Script

PUT_PART = Script(
    "put_part",
    """#!lua
-- ARGV[3..7]: upload, number of parts, this part's number, its bytes, erase count.
-- Returns 0 when there is no bank, -1 when facts were erased since, 1.
"""
    + BANK
    + """
if redis.call('SCARD', erased) ~= tonumber(ARGV[7]) then
  return -1
end
redis.call('HSET', key('uploads'), ARGV[3], redis.call('TIME')[1] .. ':' .. ARGV[4])
redis.call('SET', key('part:') .. ARGV[3] .. ':' .. ARGV[5], ARGV[6])
return 1
""",
)

_UPLOADS = """
local uploads, checkpoints = key('uploads'), key('checkpoints')
local function published()
  local found = {}
  for _, record in ipairs(redis.call('HVALS', checkpoints)) do
    found[string.match(record, '^[^:]*')] = true
  end
  return found
end

-- Removes the uploads of which `is_old(upload, time)` says so.
local function remove_uploads(is_old)
  local all = redis.call('HGETALL', uploads)
  for i = 1, #all, 2 do
    local since, parts = string.match(all[i + 1], '^(%d+):(%d+)$')
    if is_old(all[i], tonumber(since)) then
      for n = 0, parts - 1 do
        redis.call('UNLINK', key('part:') .. all[i] .. ':' .. n)
      end
      redis.call('HDEL', uploads, all[i])
    end
  end
end
"""

PUBLISH = Script(
    "publish",
    """#!lua
-- ARGV[3..10]: upload, part of the state, version, JSON, how many to keep, seconds until an
-- unpublished upload counts as abandoned, erase count, chain value of the version ("" for any).
-- Returns as PUT_PART; 0 also when the upload is gone, -1 when the version has another chain value.
"""
    + BANK
    + LINEAGE
    + _UPLOADS
    + """
if redis.call('HEXISTS', uploads, ARGV[3]) == 0 then
  return 0
end
local version = tonumber(ARGV[5])
local entry = ARGV[10] ~= '' and entry_of(owner_of(version), version)
local is_other = ARGV[10] ~= '' and (not entry or entry[2][12] ~= ARGV[10])
if is_other or redis.call('SCARD', erased) ~= tonumber(ARGV[9]) then
  remove_uploads(function(upload)
    return upload == ARGV[3]
  end)
  return -1
end
local before = published()
before[ARGV[3]] = true
redis.call('HSET', checkpoints, ARGV[4] .. ':' .. ARGV[5], ARGV[3] .. ':' .. ARGV[6])
local versions = {}
for _, name in ipairs(redis.call('HKEYS', checkpoints)) do
  local part, version = string.match(name, '^(.*):(%d+)$')
  if part == ARGV[4] then
    versions[#versions + 1] = tonumber(version)
  end
end
table.sort(versions, function(a, b) return a > b end)
for i = tonumber(ARGV[7]) + 1, #versions do
  redis.call('HDEL', checkpoints, ARGV[4] .. ':' .. string.format('%.0f', versions[i]))
end
local after, now = published(), redis.call('TIME')[1]
remove_uploads(function(upload, since)
  return not after[upload] and (before[upload] or now - since > tonumber(ARGV[8]))
end)
return 1
""",
)

REMOVE_CHECKPOINTS = Script(
    "remove_checkpoints",
    """#!lua
-- ARGV[3]: version; checkpoints before it go, and every unpublished upload.
-- Returns {how many checkpoints}, 0 when there is no bank.
"""
    + BANK
    + _UPLOADS
    + """
local removed = 0
for _, name in ipairs(redis.call('HKEYS', checkpoints)) do
  if tonumber(string.match(name, '%d+$')) < tonumber(ARGV[3]) then
    removed = removed + redis.call('HDEL', checkpoints, name)
  end
end
local kept = published()
remove_uploads(function(upload)
  return not kept[upload]
end)
return {removed}
""",
)

PUT_RECORD = Script(
    "put_record",
    "#!lua\n-- ARGV[3..5]: name, text, 1 to keep what is there. Returns {the text that is kept}.\n"
    + BANK
    + """
local records = base .. 'records'
redis.call(ARGV[5] == '1' and 'HSETNX' or 'HSET', records, ARGV[3], ARGV[4])
return {redis.call('HGET', records, ARGV[3])}
""",
)

RECORD = Script(
    "record",
    "#!lua flags=no-writes\n-- ARGV[3]: name. Returns {its text}, {} when there is none.\n"
    + BANK
    + """
return {redis.call('HGET', base .. 'records', ARGV[3]) or nil}
""",
)

REMOVE_RECORD = Script(
    "remove_record",
    "#!lua\n-- ARGV[3]: name. Returns 0 when there is no bank, 1.\n"
    + BANK
    + """
redis.call('HDEL', base .. 'records', ARGV[3])
return 1
""",
)

_NEEDLES = """
local needles = {}
for i = first_needle, #ARGV do
  needles[#needles + 1] = ARGV[i]
end
local function found_in(value)
  for _, needle in ipairs(needles) do
    if string.find(value, needle, 1, true) then
      return true
    end
  end
  return false
end
"""

SEARCH_STRINGS = Script(
    "search_strings",
    """#!lua flags=no-writes
-- KEYS: any keys of one slot. ARGV[1]: bytes that end a call; then needles. Returns for each key,
-- of the first ones at least, 1 when a needle is in it, 0 when none is, -1 when it is no string.
local first_needle = 2
"""
    + _NEEDLES
    + """
local results, bytes_left = {}, tonumber(ARGV[1])
for i, name in ipairs(KEYS) do
  local kind = redis.call('TYPE', name).ok
  if kind == 'string' then
    local value = redis.call('GET', name)
    results[i] = found_in(value) and 1 or 0
    bytes_left = bytes_left - #value
  else
    results[i] = kind == 'none' and 0 or -1
  end
  if bytes_left <= 0 then
    break
  end
end
return results
""",
)

SEARCH_STEP = Script(
    "search_step",
    """#!lua flags=no-writes
-- KEYS[1]: a key that is no string. ARGV: where to go on ("0" at first), elements, needles.
-- Returns {where to go on ("0" at the end), 1 when a needle was found}.
local name, at, count, first_needle = KEYS[1], ARGV[1], ARGV[2], 3
"""
    + _NEEDLES
    + """
local scans = {hash = 'HSCAN', set = 'SSCAN', zset = 'ZSCAN'}
local kind, values = redis.call('TYPE', name).ok, {}
local next_at = '0'
if scans[kind] then
  next_at, values = unpack(redis.call(scans[kind], name, at, 'COUNT', count))
elseif kind == 'list' then
  values = redis.call('LRANGE', name, at, at + count - 1)
  next_at = #values == tonumber(count) and string.format('%.0f', at + count) or '0'
elseif kind == 'stream' then
  local from = at == '0' and '-' or '(' .. at
  local entries = redis.call('XRANGE', name, from, '+', 'COUNT', count)
  for _, entry in ipairs(entries) do
    values[#values + 1] = table.concat(entry[2], '\\0')
  end
  next_at = #entries == tonumber(count) and entries[#entries][1] or '0'
end
for _, value in ipairs(values) do
  if found_in(value) then
    return {'0', 1}
  end
end
return {next_at, 0}
""",
)
