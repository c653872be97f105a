-- KEYS: the catalogue. ARGV: how long it is kept, the backend, and what it offers, unless that is to be removed.
if ARGV[3] then
  redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
else
  redis.call('HDEL', KEYS[1], ARGV[2])
end
redis.call('PEXPIREAT', KEYS[1], text(now + tonumber(ARGV[1])))
