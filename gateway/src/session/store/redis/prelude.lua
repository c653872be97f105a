-- Every script begins with this.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- Milliseconds as text; Lua alone would write large numbers with an exponent.
local function text(millis)
  return string.format('%.0f', millis)
end

-- Whether the record lives: it is there, and neither of its deadlines has passed.
local function lives(key)
  local deadlines = redis.call('HMGET', key, 'idle', 'end')
  return deadlines[1] and deadlines[2] and now < tonumber(deadlines[1]) and now < tonumber(deadlines[2])
end

-- Moves the idle deadline by `ttl`, not beyond the end. The key outlives it by `grace`.
local function move_deadline(key, the_end, ttl, grace)
  local idle = math.min(now + ttl, the_end)
  redis.call('HSET', key, 'idle', text(idle), 'touched', text(now))
  redis.call('PEXPIREAT', key, text(idle + grace))
end

local function snapshot(key)
  return { text(now), redis.call('HGETALL', key) }
end
