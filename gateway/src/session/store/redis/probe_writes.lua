-- KEYS: a hash and a set that do not exist. Uses every command of the scripts that write, and leaves nothing behind.
-- Redis refuses the first one when memory is full.
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
