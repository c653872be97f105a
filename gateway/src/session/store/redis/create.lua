-- KEYS: record, incarnation. ARGV: ttl, lifetime, grace, a new incarnation, then fields and values.
if lives(KEYS[1]) then
  return false
end
-- A dead record of that key may still be there. A deletion is done only then: as the first write of a script it would make Redis
-- allow the others also when its memory is full.
if redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('DEL', KEYS[1])
end
local incarnation = redis.call('GET', KEYS[2])
if not incarnation then
  incarnation = ARGV[4]
  redis.call('SET', KEYS[2], incarnation)
end
local the_end = now + tonumber(ARGV[2])
redis.call('HSET', KEYS[1], 'created', text(now), 'end', text(the_end), unpack(ARGV, 5))
move_deadline(KEYS[1], the_end, tonumber(ARGV[1]), tonumber(ARGV[3]))
return { incarnation, text(now), text(the_end) }
