-- KEYS: the set of the virtual server. ARGV: what the keys of records begin with, for how long they must have expired, how many of them.
local due = now - tonumber(ARGV[2])
local claimed = {}
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', text(due), 'LIMIT', 0, ARGV[3])) do
  local name, principal = string.match(member, '^(%S+) (%S*)$')
  local key = ARGV[1] .. name
  if redis.call('EXISTS', key) == 0 then
    forget(key, principal)
  else
    -- For the others it looks as if it had expired just now; who claims it has as long to remove it. It is taken out first, because
    -- Redis allows that when its memory is full, and then also the other, which takes no more of it.
    redis.call('ZREM', KEYS[1], member)
    redis.call('ZADD', KEYS[1], text(now), member)
    claimed[#claimed + 1] = { name, snapshot(key) }
  end
end
return claimed
