-- KEYS: record, channel. ARGV: the record's name, the binding's field, the generation to replace (0: none), the new
-- value. A value begins with its generation and a space.
local record = lives(KEYS[1])
if not record then
  return { 'gone', false }
end
local bound = redis.call('HGET', KEYS[1], ARGV[2])
local generation = bound and string.match(bound, '^(%d+) ') or '0'
if generation ~= ARGV[3] or not record.sound then
  return { 'lost', snapshot(KEYS[1]) }
end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[4])
return { 'bound', changed(KEYS[1], KEYS[2], ARGV[1], record) }
