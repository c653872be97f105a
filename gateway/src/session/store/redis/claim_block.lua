-- KEYS: a hash. ARGV: a backend, the process, the block that it wants, whether it has that already, how many blocks there are, for how
-- many seconds a claim counts, and how long the hash is kept. Gives the block that the process has from now on: the one that it wants, or
-- the first free one behind it. Where none is free it shares the one that it wants.
local wanted, has_it, blocks = tonumber(ARGV[3]), ARGV[4] == '1', tonumber(ARGV[5])
local seconds = tonumber(time[1])
local claimed = wanted
for offset = 0, blocks - 1 do
  local block = (wanted + offset) % blocks
  local claim = redis.call('HGET', KEYS[1], ARGV[1] .. ':block:' .. block)
  local owner, last = string.match(claim or '', '^(%S+) (%d+)$')
  local is_own = owner == ARGV[2] and has_it and offset == 0
  if is_own or not last or tonumber(last) <= seconds then
    claimed = block
    break
  end
end
redis.call('HSET', KEYS[1], ARGV[1] .. ':block:' .. claimed, ARGV[2] .. ' ' .. (seconds + tonumber(ARGV[6])))
redis.call('EXPIRE', KEYS[1], ARGV[7])
return claimed
