-- KEYS: record.
if not lives(KEYS[1]) then
  return false
end
local record = snapshot(KEYS[1])
redis.call('DEL', KEYS[1])
return record
