-- KEYS: record, incarnation, channel, marker. ARGV: the record's name, ttl, grace, a new incarnation, the id's
-- incarnation, the id's end, the record's version, whether it was lost (1) or has expired (0), then the principal,
-- the rest of `fixed`, and further fields.

-- Completes a live record that has lost writes. A binding of an earlier generation is replaced. Settings have no
-- generation, so all are replaced if the record's version is lower.
local function write_what_is_lost(record)
  local known_version = tonumber(ARGV[7])
  local behind = tonumber(record.version) < known_version
  local known, is_changed = {}, behind
  for index = 11, #ARGV, 2 do
    local field, value = ARGV[index], ARGV[index + 1]
    known[field] = true
    if string.sub(field, 1, 2) == 'b:' then
      local bound = redis.call('HGET', KEYS[1], field)
      local there = tonumber(bound and string.match(bound, '^(%d+) ') or '0') or 0
      if there < (tonumber(string.match(value, '^(%d+) ')) or 0) then
        redis.call('HSET', KEYS[1], field, value)
        is_changed = true
      end
    elseif behind then
      redis.call('HSET', KEYS[1], field, value)
    end
  end
  if behind then
    for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
      local is_set = field == 'log' or string.sub(field, 1, 2) == 'u:'
      if is_set and not known[field] then
        redis.call('HDEL', KEYS[1], field)
      end
    end
    record.version = text(known_version)
  end
  if is_changed then
    return changed(KEYS[1], KEYS[3], ARGV[1], record)
  end
  return snapshot(KEYS[1])
end

local living = lives(KEYS[1])
if living then
  if living.sound and living.schema == SCHEMA and living.incarnation == ARGV[5] then
    return write_what_is_lost(living)
  end
  return snapshot(KEYS[1])
end
local the_end = tonumber(ARGV[6])
if now >= the_end or redis.call('GET', KEYS[4]) == 'terminated' then
  return false
end
local current = incarnation(KEYS[2], ARGV[4])
local expired = head(KEYS[1])
if expired and expired.incarnation == ARGV[5] then
  -- The record still exists, so the session was not terminated. Its content is newer than the caller's.
  move_deadline(KEYS[1], expired, tonumber(ARGV[2]), tonumber(ARGV[3]))
  return changed(KEYS[1], KEYS[3], ARGV[1], expired)
end
if ARGV[8] == '0' then
  return false
end
write(KEYS[1], ARGV[5], the_end, math.max(now, tonumber(ARGV[7]) + 1), tonumber(ARGV[2]), tonumber(ARGV[3]), 9)
-- The claim numbers of the stream are lost. The next number is larger than any earlier one.
redis.call('HSET', KEYS[1], 'streams', text(now))
if current ~= ARGV[5] then
  redis.call('SET', KEYS[4], 'recovered', 'PXAT', text(the_end))
end
local record = snapshot(KEYS[1])
publish_record(KEYS[3], ARGV[1], record)
return record
