-- KEYS: record, incarnation, channel. ARGV: the record's name, ttl, grace, a new incarnation, lifetime, then fields and values.
if lives(KEYS[1]) then
  return false
end
local current = incarnation(KEYS[2], ARGV[4])
write(KEYS[1], now + tonumber(ARGV[5]), tonumber(ARGV[2]), tonumber(ARGV[3]), 6)
redis.call('HSET', KEYS[1], 'incarnation', current, 'version', text(now))
local record = snapshot(KEYS[1])
publish_record(KEYS[3], ARGV[1], record)
return record
