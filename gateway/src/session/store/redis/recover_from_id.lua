-- KEYS: record, incarnation, channel, marker. ARGV: the record's name, ttl, grace, a new incarnation, the id's
-- incarnation, the id's end, the time for other replicas to restore, then the principal and the rest of `fixed`.
if lives(KEYS[1]) then
  return { 'found', 0, snapshot(KEYS[1]) }
end
local current, born = incarnation(KEYS[2], ARGV[4])
local the_end = tonumber(ARGV[6])
if now >= the_end or redis.call('EXISTS', KEYS[4]) == 1 then
  return { 'gone', 0, false }
end
if current == ARGV[5] then
  -- An expired record still exists for a while. If there is none, nothing here tells why.
  return { redis.call('EXISTS', KEYS[1]) == 1 and 'gone' or 'vanished', now, false }
end
local wait = born + tonumber(ARGV[7]) - now
if wait > 0 then
  return { 'wait', wait, false }
end
write(KEYS[1], ARGV[5], the_end, now, tonumber(ARGV[2]), tonumber(ARGV[3]), 8)
-- The claim numbers of the stream are lost. The next number is larger than any earlier one.
redis.call('HSET', KEYS[1], 'streams', text(now))
redis.call('SET', KEYS[4], 'recovered', 'PXAT', text(the_end))
local record = snapshot(KEYS[1])
publish_record(KEYS[3], ARGV[1], record)
return { 'found', 0, record }
