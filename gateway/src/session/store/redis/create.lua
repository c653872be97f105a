-- KEYS: record, incarnation, channel. ARGV: the record's name, ttl, grace, a new incarnation, lifetime, how many sessions the virtual
-- server and the principal may have, then the principal and what is written.
if lives(KEYS[1]) then
  return { 'taken', false }
end
local server_set, own_set = sets(KEYS[1], ARGV[8])
local function full(set, limit)
  return redis.call('ZCOUNT', set, '(' .. text(now), '+inf') >= tonumber(limit)
end
if full(server_set, ARGV[6]) then
  return { 'server', false }
end
if full(own_set, ARGV[7]) then
  return { 'principal', false }
end
local current = incarnation(KEYS[2], ARGV[4])
write(KEYS[1], current, now + tonumber(ARGV[5]), now, tonumber(ARGV[2]), tonumber(ARGV[3]), 8)
local record = snapshot(KEYS[1])
publish_record(KEYS[3], ARGV[1], record)
return { 'created', record }
