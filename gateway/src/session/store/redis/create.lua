-- KEYS: record, incarnation, channel. ARGV: the record's name, ttl, grace, a new incarnation, lifetime, how many sessions the virtual
-- server and the principal may have, the other names of the principal, then the principal and what is
-- written.
if lives(KEYS[1]) then
  return { 'taken', false }
end
local server_set, own_set = sets(KEYS[1], ARGV[9])
local function living(set)
  return redis.call('ZCOUNT', set, '(' .. text(now), '+inf')
end
if living(server_set) >= tonumber(ARGV[6]) then
  return { 'server', false }
end
local own = living(own_set)
for principal in string.gmatch(ARGV[8], '%S+') do
  local _, set = sets(KEYS[1], principal)
  own = own + living(set)
end
if own >= tonumber(ARGV[7]) then
  return { 'principal', false }
end
local current = incarnation(KEYS[2], ARGV[4])
write(KEYS[1], current, now + tonumber(ARGV[5]), now, tonumber(ARGV[2]), tonumber(ARGV[3]), 9)
local record = snapshot(KEYS[1])
publish_record(KEYS[3], ARGV[1], record)
return { 'created', record }
