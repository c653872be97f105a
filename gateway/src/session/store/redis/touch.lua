-- KEYS: records. ARGV: ttl, grace. For each the record's version, and how long it lives without use; 0 where it does not live.
local alive = {}
for index, key in ipairs(KEYS) do
  alive[index] = { '0', '0' }
  local record = lives(key)
  if record and record.sound then
    move_deadline(key, record, tonumber(ARGV[1]), tonumber(ARGV[2]))
    alive[index] = { record.version, text(record.idle - now) }
  elseif record then
    -- A damaged one is left as it is. Whoever reads it is told.
    alive[index] = { '1', ARGV[1] }
  end
end
return alive
