-- KEYS: record, incarnation. ARGV: ttl, lifetime, grace, a new incarnation, then fields and values.
if lives(KEYS[1]) then
  return false
end
redis.call('DEL', KEYS[1])
local incarnation = redis.call('GET', KEYS[2])
if not incarnation then
  incarnation = ARGV[4]
  redis.call('SET', KEYS[2], incarnation)
end
local the_end = now + tonumber(ARGV[2])
redis.call('HSET', KEYS[1], 'created', text(now), 'end', text(the_end), unpack(ARGV, 5))
move_deadline(KEYS[1], the_end, tonumber(ARGV[1]), tonumber(ARGV[3]))
return { incarnation, text(now), text(the_end) }
