-- KEYS: a hash and a set, neither of which is there. Uses every command that scripts use that write, or read what they need for it, and
-- leaves nothing behind. The first one is refused when the memory is full.
local hash, set = KEYS[1], KEYS[2]
redis.call('HSET', hash, 'field', '1')
redis.call('HINCRBY', hash, 'field', 1)
redis.call('HGET', hash, 'field')
redis.call('HEXISTS', hash, 'field')
redis.call('HKEYS', hash)
redis.call('PEXPIREAT', hash, text(now + 60000))
redis.call('PTTL', hash)
redis.call('HDEL', hash, 'field')
redis.call('SET', hash, '1', 'PX', '60000')
redis.call('DEL', hash)
redis.call('ZADD', set, text(now), 'member')
redis.call('ZCOUNT', set, '-inf', '+inf')
redis.call('ZRANGEBYSCORE', set, '-inf', '+inf', 'LIMIT', 0, 1)
redis.call('ZREM', set, 'member')
redis.call('DEL', set)
return 1
