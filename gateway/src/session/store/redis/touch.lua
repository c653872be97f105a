-- KEYS: records. ARGV: ttl, grace. Returns for each record its version and the time to its idle deadline; 0 if it is
-- not alive.
local alive = {}
for index, key in ipairs(KEYS) do
  alive[index] = { '0', '0' }
  local record = lives(key)
  if record and record.sound then
    move_deadline(key, record, tonumber(ARGV[1]), tonumber(ARGV[2]))
    alive[index] = { record.version, text(record.idle - now) }
  elseif record then
    -- A damaged record is left as it is. The next load reports it.
    alive[index] = { '1', ARGV[1] }
  end
end
return alive
