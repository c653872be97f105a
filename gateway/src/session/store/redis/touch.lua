-- KEYS: records. ARGV: ttl, grace.
local alive = {}
for index, key in ipairs(KEYS) do
  if lives(key) then
    move_deadline(key, tonumber(redis.call('HGET', key, 'end')), tonumber(ARGV[1]), tonumber(ARGV[2]))
    alive[index] = 1
  else
    alive[index] = 0
  end
end
return alive
