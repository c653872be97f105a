-- KEYS: record, incarnation, channel, marker. ARGV: the record's name, a new incarnation, the incarnation of the id, the end of the id,
-- how long the end of a session of this incarnation is remembered.
local living = lives(KEYS[1])
local record = living and snapshot(KEYS[1])
if living and living.schema and living.schema ~= SCHEMA then
  -- Its upstream sessions can be found only by a gateway that can read it.
  return { 'kept', record }
end
local left = tonumber(ARGV[4]) - now
if record then
  -- First, so that it is done also when the memory is full.
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
    -- A fail-over may have lost it: nobody brings it back. Where the memory is full, nobody can.
    redis.pcall('SET', KEYS[4], 'terminated', 'PX', text(remembered))
  end
  return { 'gone', false }
end
if remembered > 0 then
  redis.call('SET', KEYS[4], 'terminated', 'PX', text(remembered))
end
publish(KEYS[3], { 'terminated', ARGV[1], ARGV[3], ARGV[4] })
return { 'terminated', record }
