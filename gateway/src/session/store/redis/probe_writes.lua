-- KEYS: a hash and a set that do not exist. Uses every command of the scripts that write, and those that the gateway
-- sends alone, and leaves nothing behind.
-- Redis refuses the first one when memory is full.
local hash, set = KEYS[1], KEYS[2]
call('HSET', hash, 'field', '1')
call('HINCRBY', hash, 'field', 1)
call('HGET', hash, 'field')
call('HEXISTS', hash, 'field')
call('HKEYS', hash)
call('PEXPIREAT', hash, text(now + 60000))
call('EXPIRE', hash, 60)
call('PTTL', hash)
call('HDEL', hash, 'field')
-- A key of its own: without the permission for DEL it stays, and the next probe writes a hash.
local string_key = hash .. ':string'
call('SET', string_key, '1', 'PX', '60000')
call('DEL', string_key, hash)
call('ZADD', set, text(now), 'member')
call('ZCOUNT', set, '-inf', '+inf')
call('ZRANGEBYSCORE', set, '-inf', '+inf', 'LIMIT', 0, 1)
call('ZREM', set, 'member')
call('DEL', set)
return 1
