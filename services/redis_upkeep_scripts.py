"""The scripts of checkpoints and records in Redis. Each is atomic.

Arguments are as in services/redis_scripts.py.
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
