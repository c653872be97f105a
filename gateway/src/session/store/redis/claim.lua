-- KEYS: the server's set of records. ARGV: prefix of record keys, minimum time since expiry, maximum number of
-- records.
local due = now - tonumber(ARGV[2])
local claimed = {}
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', text(due), 'LIMIT', 0, ARGV[3])) do
  local name, principal = string.match(member, '^(%S+) (%S*)$')
  local key = ARGV[1] .. name
  if redis.call('EXISTS', key) == 0 then
    forget(key, principal)
  else
    -- A claimed record looks as if it had just expired, so its owner has the same time to remove it. ZREM comes
    -- first: Redis allows it when memory is full, and then also the ZADD that follows, which needs no more memory.
    redis.call('ZREM', KEYS[1], member)
    redis.call('ZADD', KEYS[1], text(now), member)
    claimed[#claimed + 1] = { name, snapshot(key) }
  end
end
return claimed
