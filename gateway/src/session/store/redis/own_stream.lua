-- KEYS: record, channel. ARGV: the record's name, the owner. How often the session's own stream has been opened; 0: it does not live.
if not lives(KEYS[1]) then
  return 0
end
local number = redis.call('HINCRBY', KEYS[1], 'streams', 1)
publish(KEYS[2], { 'stream', ARGV[1], ARGV[2], number })
return number
