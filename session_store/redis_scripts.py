"""The session store's operations as Lua, which Redis runs one at a time: nothing can come between a check and a write.

For each session there is a hash (`token_hash`, `key_id`, `body`, `fence`, `owner`) and beside it a *live* key, whose
native expiry is the end of the resume window. A hash without its live key is an expired session, `late` once that was
noticed; one without `body` has been ended or closed out, too. The hash goes a day after the live key. A sorted set of
deadlines tells which sessions are to be closed out. All keys of a call are on one server: Redis Cluster is not
supported.

Times are of Redis's own clock, in milliseconds.
"""

_COMMON = """
local hash, live, deadlines, partial, channel = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local id = ARGV[1]

local function now()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local function key_sessions(key_id)
  return string.gsub(deadlines, 'deadlines$', 'key:') .. key_id
end

local function renew(ttl, tombstone)
  redis.call('PEXPIRE', hash, ttl + tombstone)
  redis.call('HDEL', hash, 'late')
  redis.call('SET', live, '', 'PX', ttl)
  redis.call('ZADD', deadlines, now() + ttl, id)
  local key_id = redis.call('HGET', hash, 'key_id')
  if key_id and key_id ~= '' then
    redis.call('ZADD', key_sessions(key_id), now() + ttl, id)
    redis.call('PEXPIRE', key_sessions(key_id), ttl + tombstone)
  end
end

local function is_live()
  return redis.call('EXISTS', live) == 1 and redis.call('HEXISTS', hash, 'body') == 1
end

-- 'stale', 'unknown' or 'owner'
local function standing(fence)
  local stored = redis.call('HGET', hash, 'fence')
  if not stored then
    return 'unknown'
  end
  if tonumber(fence) < tonumber(stored) or redis.call('HEXISTS', hash, 'body') == 0 then
    return 'stale'
  end
  return 'owner'
end
"""

# ARGV: id, owner, token_hash, key_id, body, ttl, tombstone, limit of the key's sessions (-1: none). Returns the fence,
# 0 where another owner has the id, -1 where the key has too many.
CREATE = (
    _COMMON
    + """
if is_live() then
  local found = redis.call('HMGET', hash, 'owner', 'fence')
  return found[1] == ARGV[2] and tonumber(found[2]) or 0
end
local limit = tonumber(ARGV[8])
if limit >= 0 and ARGV[4] ~= '' then
  redis.call('ZREMRANGEBYSCORE', key_sessions(ARGV[4]), '-inf', now())
  if redis.call('ZCARD', key_sessions(ARGV[4])) >= limit then
    return -1
  end
end
local fence = (tonumber(redis.call('HGET', hash, 'fence') or 0)) + 1
redis.call('HSET', hash, 'owner', ARGV[2], 'token_hash', ARGV[3], 'key_id', ARGV[4], 'body', ARGV[5], 'fence', fence)
renew(tonumber(ARGV[6]), tonumber(ARGV[7]))
return fence
"""
)

# ARGV: id. Returns nil, {token_hash, key_id} for an expired session, or {token_hash, key_id, body}.
PEEK = (
    _COMMON
    + """
local found = redis.call('HMGET', hash, 'token_hash', 'key_id', 'body')
if not found[1] then
  return nil
end
if not is_live() then
  return {found[1], found[2]}
end
return found
"""
)

# ARGV: id, owner, ttl, tombstone. Returns as PEEK does, with the new fence as fourth.
CLAIM = (
    _COMMON
    + """
local found = redis.call('HMGET', hash, 'token_hash', 'key_id', 'body')
if not found[1] then
  return nil
end
if not is_live() then
  return {found[1], found[2]}
end
found[4] = redis.call('HINCRBY', hash, 'fence', 1)
redis.call('HSET', hash, 'owner', ARGV[2])
renew(tonumber(ARGV[3]), tonumber(ARGV[4]))
return found
"""
)

# ARGV: id, fence, token_hash, key_id, body, ttl, tombstone. Returns the standing.
SAVE = (
    _COMMON
    + """
local standing = standing(ARGV[2])
if standing ~= 'stale' then
  redis.call('HSET', hash, 'token_hash', ARGV[3], 'key_id', ARGV[4], 'body', ARGV[5], 'fence', ARGV[2])
  redis.call('HSETNX', hash, 'owner', '')
  renew(tonumber(ARGV[6]), tonumber(ARGV[7]))
end
return standing
"""
)

# ARGV: id, fence, ttl, tombstone. Returns the standing.
TOUCH = (
    _COMMON
    + """
local standing = standing(ARGV[2])
if standing == 'owner' then
  renew(tonumber(ARGV[3]), tonumber(ARGV[4]))
end
return standing
"""
)

# ARGV: id, fence, tombstone, message for followers. Returns the standing; a session that is over already has an owner.
DELETE = (
    _COMMON
    + """
local standing = standing(ARGV[2])
if standing == 'stale' and redis.call('HEXISTS', hash, 'body') == 0
    and tonumber(ARGV[2]) >= tonumber(redis.call('HGET', hash, 'fence')) then
  return 'owner'
end
if standing == 'owner' then
  local key_id = redis.call('HGET', hash, 'key_id')
  if key_id and key_id ~= '' then
    redis.call('ZREM', key_sessions(key_id), id)
  end
  redis.call('HDEL', hash, 'body')
  redis.call('PEXPIRE', hash, tonumber(ARGV[3]))
  redis.call('DEL', live, partial)
  redis.call('ZREM', deadlines, id)
  redis.call('PUBLISH', channel, ARGV[4])
end
return standing
"""
)

# A session that is found late for the first time is marked as such, and its deadline set to that moment.
# KEYS: deadlines. ARGV: prefix, limit, grace, tombstone, message. Returns {id, token_hash, key_id, body} for each.
EXPIRED = """
local prefix, limit, grace, tombstone = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local closed = {}
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'WITHSCORES', 'LIMIT', 0, limit)
for place = 1, #due, 2 do
  local id, score = due[place], tonumber(due[place + 1])
  local hash, live = prefix .. 'session:' .. id, prefix .. 'live:' .. id
  local left = redis.call('PTTL', live)
  local is_late = redis.call('HEXISTS', hash, 'late') == 1
  if left > 0 then
    redis.call('ZADD', KEYS[1], now + left, id)
  elseif grace > 0 and not is_late and redis.call('HEXISTS', hash, 'body') == 1 then
    redis.call('HSET', hash, 'late', 1)
    redis.call('ZADD', KEYS[1], now, id)
  elseif score <= now - grace or not is_late then
    redis.call('ZREM', KEYS[1], id)
    local found = redis.call('HMGET', hash, 'token_hash', 'key_id', 'body')
    if found[3] then
      redis.call('HINCRBY', hash, 'fence', 1)
      redis.call('HDEL', hash, 'body')
      redis.call('PEXPIRE', hash, tombstone)
      redis.call('DEL', prefix .. 'partial:' .. id)
      redis.call('PUBLISH', prefix .. 'feed:' .. id, ARGV[5])
      closed[#closed + 1] = {id, found[1], found[2], found[3]}
    end
  end
end
return closed
"""

# KEYS: the ticket. Returns what was stored there, at the first call only.
REDEEM = """
local key_id = redis.call('GET', KEYS[1])
redis.call('DEL', KEYS[1])
return key_id
"""

# KEYS: beginning of the key's accounts. ARGV: seconds. Returns the day's total. A day's account is kept for two.
ADD_USAGE = """
local day = math.floor(redis.call('TIME')[1] / 86400)
local account = KEYS[1] .. string.format('%d', day)
local total = redis.call('INCRBYFLOAT', account, ARGV[1])
redis.call('EXPIRE', account, 172800)
return total
"""
