-- KEYS: record, incarnation, channel, marker. ARGV: the record's name, ttl, grace, a new incarnation, the incarnation of the id, the end
-- of the id, the record's version, whether it was lost (1) or has expired (0), then the principal and what is
-- written.
if lives(KEYS[1]) then
  return snapshot(KEYS[1])
end
local the_end = tonumber(ARGV[6])
if now >= the_end or redis.call('GET', KEYS[4]) == 'terminated' then
  return false
end
local current = incarnation(KEYS[2], ARGV[4])
local expired = head(KEYS[1])
if expired and expired.incarnation == ARGV[5] then
  -- It is still there: nobody has ended it, and what it holds is newer than what the caller knows.
  move_deadline(KEYS[1], expired, tonumber(ARGV[2]), tonumber(ARGV[3]))
  return changed(KEYS[1], KEYS[3], ARGV[1], expired)
end
if ARGV[8] == '0' then
  return false
end
write(KEYS[1], ARGV[5], the_end, math.max(now, tonumber(ARGV[7]) + 1), tonumber(ARGV[2]), tonumber(ARGV[3]), 9)
-- How often the session's own stream was opened is lost: the next number is larger than any that was given.
redis.call('HSET', KEYS[1], 'streams', text(now))
if current ~= ARGV[5] then
  redis.call('SET', KEYS[4], 'recovered', 'PXAT', text(the_end))
end
local record = snapshot(KEYS[1])
publish_record(KEYS[3], ARGV[1], record)
return record
