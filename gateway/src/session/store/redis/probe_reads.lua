-- KEYS: a hash that is not there. Uses every command that scripts use that only read.
redis.call('GET', KEYS[1])
redis.call('EXISTS', KEYS[1])
redis.call('HMGET', KEYS[1], 'fixed', 'times')
redis.call('HGETALL', KEYS[1])
return 1
