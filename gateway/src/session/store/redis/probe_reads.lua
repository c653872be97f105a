-- KEYS: a hash that does not exist. Uses every command of the scripts that only read.
call('GET', KEYS[1])
call('EXISTS', KEYS[1])
call('HMGET', KEYS[1], 'fixed', 'times')
call('HGETALL', KEYS[1])
return 1
