-- KEYS: record. ARGV: field, value (empty: the field is removed), what the fields of its kind begin with, how many there may be
-- (0: no limit).
if not lives(KEYS[1]) then
  return { 'gone', false }
end
if ARGV[2] == '' then
  redis.call('HDEL', KEYS[1], ARGV[1])
  return { 'set', snapshot(KEYS[1]) }
end
local limit = tonumber(ARGV[4])
if limit > 0 and redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then
  local count = 0
  for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
    if string.sub(field, 1, #ARGV[3]) == ARGV[3] then
      count = count + 1
    end
  end
  if count >= limit then
    return { 'full', false }
  end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return { 'set', snapshot(KEYS[1]) }
