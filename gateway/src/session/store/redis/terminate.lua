-- KEYS: record, incarnation, channel, marker. ARGV: the record's name, a new incarnation, the id's incarnation, the
-- id's end, lifetime of a tombstone within this incarnation.
local living = lives(KEYS[1])
local record = living and snapshot(KEYS[1])
if living and living.schema and living.schema ~= SCHEMA then
  -- Only a gateway that can read the record can delete its upstream sessions.
  return { 'kept', record }
end
local left = tonumber(ARGV[4]) - now
if record then
  -- First, so that it succeeds when memory is full as well.
  redis.call('DEL', KEYS[1])
  forget(KEYS[1], living.principal or '')
end
local current = incarnation(KEYS[2], ARGV[2])
if not record and (left <= 0 or redis.call('EXISTS', KEYS[4]) == 1) then
  return { 'gone', false }
end
local remembered = left
if current == ARGV[3] then
  remembered = math.min(left, tonumber(ARGV[5]))
end
if not record and current == ARGV[3] then
  if redis.call('EXISTS', KEYS[1]) == 0 then
    -- A failover may have lost the record. The tombstone keeps replicas from restoring it. If memory is full there is
    -- no tombstone, but nothing can be restored either.
    redis.pcall('SET', KEYS[4], 'terminated', 'PX', text(remembered))
  end
  return { 'gone', false }
end
if remembered > 0 then
  redis.call('SET', KEYS[4], 'terminated', 'PX', text(remembered))
end
publish(KEYS[3], { 'terminated', ARGV[1], ARGV[3], ARGV[4] })
return { 'terminated', record }
