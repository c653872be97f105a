-- KEYS: a hash. It and the string beside it exist only while the user may not run DEL. Uses every command of the scripts that only read.
call('GET', KEYS[1] .. ':string')
call('EXISTS', KEYS[1])
call('HMGET', KEYS[1], 'fixed', 'times')
call('HGETALL', KEYS[1])
return 1
