-- KEYS: a hash that does not exist. Uses every command of the scripts that only read.
redis.call('GET', KEYS[1])
redis.call('EXISTS', KEYS[1])
redis.call('HMGET', KEYS[1], 'fixed', 'times')
redis.call('HGETALL', KEYS[1])
return 1
