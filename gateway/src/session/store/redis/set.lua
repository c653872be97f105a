-- KEYS: record, channel. ARGV: the record's name, field, value (empty removes the field), the prefix of such fields,
-- their maximum number (0: no limit).
local record = lives(KEYS[1])
if not record then
  return { 'gone', false }
end
if not record.sound then
  return { 'damaged', snapshot(KEYS[1]) }
end
if ARGV[3] == '' then
  redis.call('HDEL', KEYS[1], ARGV[2])
  return { 'set', changed(KEYS[1], KEYS[2], ARGV[1], record) }
end
local limit = tonumber(ARGV[5])
if limit > 0 and redis.call('HEXISTS', KEYS[1], ARGV[2]) == 0 then
  local count = 0
  for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
    if string.sub(field, 1, #ARGV[4]) == ARGV[4] then
      count = count + 1
    end
  end
  if count >= limit then
    return { 'full', false }
  end
end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
return { 'set', changed(KEYS[1], KEYS[2], ARGV[1], record) }
