"""The scripts that make, fork, load and remove banks in Redis. Each is atomic.

Arguments are as in services/redis_scripts.py.
"""

from __future__ import annotations

from services.redis_scripts import BANK, KEYS, LINEAGE, Script
from services.redis_store import OWN, SHARED

_LEFTOVERS = (
    f"""
local own = {{{", ".join(map(repr, OWN))}}}
local shared = {{{", ".join(map(repr, SHARED))}}}
"""
    + """
-- Whether an earlier bank of this name was removed or loaded half-way; roots own family keys.
local function leftover(is_root)
  for _, name in ipairs(own) do
    if redis.call('EXISTS', key(name)) == 1 then
      return true
    end
  end
  for _, name in ipairs(is_root and shared or {}) do
    if redis.call('EXISTS', base .. name) == 1 then
      return true
    end
  end
  return false
end
"""
)

CLAIM = Script(
    "claim",
    """#!lua
-- KEYS[1]: the tenant's registry. ARGV: bank, the root it has now ("" for none), its new root
-- ("" to take it off the list). Changes nothing when it has another root now.
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then
  return 0
elseif ARGV[3] == '' then
  return redis.call('HDEL', KEYS[1], ARGV[1])
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
""",
)

MAKE = Script(
    "make",
    """#!lua
-- ARGV[3]: configuration of a new root. Returns {1} when made, {0, configuration} when there is
-- a bank, {-1} when an old one left something to sweep.
"""
    + KEYS
    + _LEFTOVERS
    + """
local held = redis.call('GET', key('config'))
if held then
  return {0, held}
elseif leftover(true) then
  return {-1}
end
redis.call('SET', key('config'), ARGV[3])
return {1}
""",
)

# What came from a bank, behind the state that says that there is any.
_FORKS = """
local function forks_after(state)
  local forks, members = {state}, redis.call('HGETALL', family)
  for i = 1, #members, 2 do
    if members[i + 1] ~= '' and cjson.decode(members[i + 1]).bank == bank then
      forks[#forks + 1] = members[i]
    end
  end
  return forks
end
"""

DROP = Script(
    "drop",
    """#!lua
-- Takes away a bank's configuration. ARGV[3..4]: version and chain that it must have, "" for any.
-- Returns {1}; {0} when there is no bank, {2} when none is being made either: another call has
-- removed it, and maybe not come to the end; {-1, fork ...}; {-2} when it has another head.
"""
    + KEYS
    + LINEAGE
    + _FORKS
    + """
if redis.call('EXISTS', key('config')) == 0 then
  return {redis.call('EXISTS', key('building')) == 1 and 0 or 2}
end
if ARGV[3] ~= '' then
  local version, chain = head_of(bank)
  if version ~= tonumber(ARGV[3]) or chain ~= ARGV[4] then
    return {-2}
  end
end
local forks = forks_after(-1)
if #forks > 1 then
  return forks
end
redis.call('UNLINK', key('config'))
return {1}
""",
)

SWEEP = Script(
    "sweep",
    """#!lua
-- Removes what a bank without a configuration has left, in steps; stopping anywhere is harmless.
-- ARGV[3..4]: entries to remove, 1 for a root. ARGV[5]: what is said to be building there, "" for
-- nothing; with anything else there it is not swept, for then somebody makes a bank. Without
-- ARGV[5] it is swept whatever is building. Returns 1 when there is more to do.
"""
    + KEYS
    + _LEFTOVERS
    + """
if redis.call('EXISTS', key('config')) == 1
    or ARGV[5] and (redis.call('GET', key('building')) or '') ~= ARGV[5] then
  return 0
end
local log = key('log')
local entries = redis.call('XREVRANGE', log, '+', '-', 'COUNT', ARGV[3])
for _, entry in ipairs(entries) do
  redis.call('UNLINK', key('payload:') .. string.match(entry[1], '^%d+'))
  redis.call('XDEL', log, entry[1])
end
if #entries == tonumber(ARGV[3]) then
  return 1
end
local uploads = redis.call('HGETALL', key('uploads'))
for i = 1, #uploads, 2 do
  for n = 0, tonumber(string.match(uploads[i + 1], ':(%d+)$')) - 1 do
    redis.call('UNLINK', key('part:') .. uploads[i] .. ':' .. n)
  end
end
for _, name in ipairs(own) do
  redis.call('UNLINK', key(name))
end
if ARGV[4] == '1' then
  for _, name in ipairs(shared) do
    redis.call('UNLINK', base .. name)
  end
else
  redis.call('HDEL', family, bank)
end
return 0
""",
)

BUILD = Script(
    "build",
    """#!lua
-- Puts a step of a fork's fact index into a bank that nobody can see yet.
-- ARGV[3..]: origin, then fact ids and versions. Returns {1}, {0, origin} when the bank is there,
-- {-1} when something else was left under its name.
"""
    + KEYS
    + _LEFTOVERS
    + """
if redis.call('EXISTS', key('config')) == 1 then
  return {0, redis.call('HGET', family, bank) or ''}
end
if redis.call('GET', key('building')) ~= ARGV[3] then
  if leftover(false) then
    return {-1}
  end
  redis.call('SET', key('building'), ARGV[3])
end
for i = 4, #ARGV, 2 do
  redis.call('HSET', key('facts'), ARGV[i], ARGV[i + 1])
end
return {1}
""",
)

FORK = Script(
    "fork",
    """#!lua
-- Publishes a fork whose fact index is there. ARGV[3..6]: origin, root, facts, configuration.
-- Returns as BUILD, and {-2} when the origin is no longer what was read.
"""
    + KEYS
    + LINEAGE
    + """
if redis.call('EXISTS', key('config')) == 1 then
  return {0, redis.call('HGET', family, bank) or ''}
end
local origin = cjson.decode(ARGV[3])
if redis.call('GET', key('config', origin.bank)) ~= ARGV[6] then
  return {-2}
end
if origin.version > 0 then
  local fork = bank
  bank = origin.bank
  local entry = entry_of(owner_of(origin.version), origin.version)
  bank = fork
  if not entry or entry[2][12] ~= origin.chain then
    return {-2}
  end
end
if redis.call('GET', key('building')) ~= ARGV[3]
    or redis.call('HLEN', key('facts')) ~= tonumber(ARGV[5]) then
  return {-1}
end
redis.call('HSETNX', family, ARGV[4], '')
redis.call('HSET', family, bank, ARGV[3])
redis.call('SET', key('config'), ARGV[6])
redis.call('UNLINK', key('building'))
return {1}
""",
)

LOAD = Script(
    "load",
    """#!lua
-- Puts entries of an archive into a root that nobody can see yet.
-- ARGV[3]: the source. ARGV[4..]: ten for each entry: version, kind, event id, fact id, time,
-- SHA-256, chain, previous, HMAC, salt and payload ("" for none). Returns {1, version, chain}, {0}
-- when there is a bank, {-1} when something else was left under its name, {-2, version} when an
-- entry does not follow.
"""
    + KEYS
    + LINEAGE
    + _LEFTOVERS
    + """
if redis.call('EXISTS', key('config')) == 1 then
  return {0}
end
local source = 'load:' .. ARGV[3]
if redis.call('GET', key('building')) ~= source then
  if leftover(true) then
    return {-1}
  end
  redis.call('SET', key('building'), source)
end
redis.call('SET', key('loaded_s'), redis.call('TIME')[1])
local version, chain = head_of(bank)
for i = 4, #ARGV, 10 do
  local at, kind, event_id, fact_id = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local time_ms, sha256, given, previous = ARGV[i + 4], ARGV[i + 5], ARGV[i + 6], ARGV[i + 7]
  if tonumber(at) <= version then
    local entry = entry_of(bank, tonumber(at))
    if not entry or entry[2][12] ~= given then
      return {-1}
    end
  else
    local newest = string.match(redis.call('HGET', key('facts'), fact_id) or '0', '%d+')
    chain = redis.sha1hex(table.concat(
      {chain, at, kind, fact_id, event_id, time_ms, sha256, previous}, '\\0'))
    version = version + 1
    if tonumber(at) ~= version or chain ~= given or previous ~= newest
        or redis.call('HSETNX', key('events'), event_id, at .. ':' .. ARGV[i + 8]) == 0 then
      return {-2, at}
    end
    redis.call('XADD', key('log'), at .. '-0', 'kind', kind, 'fact', fact_id, 'event', event_id,
      'time_ms', time_ms, 'sha256', sha256, 'chain', chain, 'prev', previous)
    redis.call('HSET', key('facts'), fact_id, (kind == 'W' and '' or '-') .. at)
    if ARGV[i + 9] ~= '' then
      redis.call('SET', key('payload:') .. at, ARGV[i + 9])
    end
  end
end
return {1, version, chain}
""",
)

ABANDON = Script(
    "abandon",
    """#!lua
-- Gives up what is loaded and not shown, so that it can be swept and no load goes on with it; what
-- a bank has left that was removed half-way is given up already: nothing says what it is building.
-- ARGV[3..]: seconds without a load after which it is given up ("" for never), chain values of
-- first entries with which it is at once. Returns {chain value of its first entry, what is building
-- there by now}, {} if it stays.
"""
    + KEYS
    + LINEAGE
    + """
local building = redis.call('GET', key('building')) or ''
if redis.call('EXISTS', key('config')) == 1 then
  return {}
end
local first = entry_of(owner_of(1), 1)
local chain, given_up = first and first[2][12] or '', false
if building == '' then
  return {chain, ''}
elseif string.sub(building, 1, 5) ~= 'load:' then
  return {}
end
for i = 4, #ARGV do
  given_up = given_up or ARGV[i] == chain
end
if ARGV[3] ~= '' then
  local since = tonumber(redis.call('GET', key('loaded_s')) or 0)
  given_up = given_up or redis.call('TIME')[1] - since > tonumber(ARGV[3])
end
if not given_up then
  return {}
end
building = 'load:\\0given up'
redis.call('SET', key('building'), building)
redis.call('UNLINK', key('loaded_s'))
return {chain, building}
""",
)

LOAD_ERASED = Script(
    "load_erased",
    """#!lua
-- Puts erased fact ids beside a loaded bank. ARGV[3..]: 1 to begin anew, fact ids.
-- Returns 0 when it is no longer being loaded.
"""
    + KEYS
    + """
local building = redis.call('GET', key('building')) or ''
if redis.call('EXISTS', key('config')) == 1 or string.sub(building, 1, 5) ~= 'load:' then
  return 0
end
if ARGV[3] == '1' then
  redis.call('UNLINK', erased)
end
for i = 4, #ARGV do
  redis.call('SADD', erased, ARGV[i])
end
return 1
""",
)

# Makes a loaded bank visible, ARGV[3..5]: configuration, its last version, erased facts; or says
# why not: {0} when it is not being loaded (any more), {-1, its last version}.
_SHOWN = """
local function shown()
  local building = redis.call('GET', key('building')) or ''
  if redis.call('EXISTS', key('config')) == 1 or string.sub(building, 1, 5) ~= 'load:'
      or redis.call('SCARD', erased) ~= tonumber(ARGV[5]) then
    return {0}
  end
  local version = head_of(bank)
  if version ~= tonumber(ARGV[4]) then
    return {-1, version}
  end
  redis.call('SET', key('config'), ARGV[3])
  redis.call('UNLINK', key('building'), key('loaded_s'))
  return {1}
end
"""

SHOW = Script("show", "#!lua" + KEYS + LINEAGE + _SHOWN + "return shown()\n")

REPLACE = Script(
    "replace",
    """#!lua
-- Shows a loaded bank in the place of the one of its name: whoever looks finds one or the other.
-- KEYS[3]: the tenant's registry. ARGV[6..8]: base and root of the old bank, root of the new one;
-- ARGV[9..10]: version and chain of the old one. Returns as SHOW; {-2} when the old bank is not
-- there or has had events since, {-3, fork ...}.
"""
    + KEYS
    + LINEAGE
    + _FORKS
    + _SHOWN
    + """
local function at(place)
  base, family, erased, origins = place, place .. 'family', place .. 'erased', {}
end
local loaded = base
at(ARGV[6])
local version, chain = head_of(bank)
local config, root = key('config'), redis.call('HGET', KEYS[3], bank)
if redis.call('EXISTS', config) == 0 or root ~= ARGV[7]
    or version ~= tonumber(ARGV[9]) or chain ~= ARGV[10] then
  return {-2}
end
local forks = forks_after(-3)
if #forks > 1 then
  return forks
end
at(loaded)
local state = shown()
if state[1] == 1 then
  redis.call('HSET', KEYS[3], bank, ARGV[8])
  redis.call('UNLINK', config)
end
return state
""",
)

FAMILY = Script(
    "family",
    "#!lua flags=no-writes\n-- Returns {bank, origin, ...} of the visible banks of a family.\n"
    + BANK
    + """
local found, members = {}, redis.call('HGETALL', family)
for i = 1, #members, 2 do
  if redis.call('EXISTS', key('config', members[i])) == 1 then
    found[#found + 1] = members[i]
    found[#found + 1] = members[i + 1]
  end
end
if #found == 0 then
  return {bank, ''}
end
return found
""",
)
