-- KEYS: records. ARGV: ttl, grace. For each the record's version, and how long it lives without use; 0 where it does not live.
local alive = {}
for index, key in ipairs(KEYS) do
  alive[index] = { '0', '0' }
  if lives(key) then
    local record = redis.call('HMGET', key, 'end', 'version')
    local idle = move_deadline(key, tonumber(record[1]), tonumber(ARGV[1]), tonumber(ARGV[2]))
    alive[index] = { record[2], text(idle - now) }
  end
end
return alive
