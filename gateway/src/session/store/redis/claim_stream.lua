-- KEYS: record, channel. ARGV: the record's name, the owner. Returns the claim's number; 0 if the session is not
-- alive.
if not lives(KEYS[1]) then
  return 0
end
local number = redis.call('HINCRBY', KEYS[1], 'streams', 1)
publish(KEYS[2], { 'stream', ARGV[1], ARGV[2], number })
return number
