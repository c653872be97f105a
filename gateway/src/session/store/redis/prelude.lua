-- Common part of all scripts. The line before it sets how to publish and the schema that this gateway reads.

-- Fails on a replica, whose data may be old: only a primary accepts a write. The key does not exist, so nothing is
-- written. The command must be one that Redis refuses when memory is full: after an allowed one, Redis would allow
-- all others of the script.
local refusal = redis.pcall('SET', string.match(KEYS[1], '^{[^}]*}') .. ':role', '', 'XX')
if type(refusal) == 'table' and refusal.err and string.find(refusal.err, 'READONLY', 1, true) then
  return refusal
end

-- Runs a command, and names it if the user may not run it: before version 7.2 Redis does not.
local function call(command, ...)
  local answer = redis.pcall(command, ...)
  if type(answer) == 'table' and answer.err then
    if string.find(answer.err, "can't run this command", 1, true) then
      local name = string.lower(command)
      answer = { err = "NOPERM this user has no permissions to run the '" .. name .. "' command" }
    end
    error(answer)
  end
  return answer
end

local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- Milliseconds as text. Lua itself would write large numbers with an exponent.
local function text(millis)
  return string.format('%.0f', millis)
end

-- Reads the head of a record. Two fields contain it, because each field costs Redis as much as its content. `fixed`
-- never changes: schema, incarnation, absolute deadline, principal, and parts that only gateways read. `times` is the
-- idle deadline, the time of its last move, and the version. All schemas begin like this, so every gateway knows
-- which records are alive. A damaged record lacks a part; nil means that there is no record.
local function head(key)
  local fields = redis.call('HMGET', key, 'fixed', 'times')
  if not fields[1] and not fields[2] then
    return nil
  end
  local fixed, times = fields[1] or '', fields[2] or ''
  local record = { schema = string.match(fixed, '^(%S+) ') }
  local last, idle
  record.incarnation, last, record.principal = string.match(fixed, '^%S+ (%S+) (%d+) (%S+) ')
  idle, record.touched, record.version, record.more = string.match(times, '^(%d+) (%d+) (%d+)(.*)$')
  record.last, record.idle = tonumber(last), tonumber(idle)
  record.sound = record.last and record.idle
  return record
end

-- The head of the record if it is alive, otherwise false: it exists, and neither deadline has passed. A damaged
-- record counts as alive while its key exists, because reporting it as gone would end its session.
local function lives(key)
  local record = head(key)
  return record and (not record.sound or now < record.idle and now < record.last) and record or false
end

-- Writes `times`, and keeps what a newer schema has appended.
local function write_times(key, record)
  local times = table.concat({ text(record.idle), record.touched, record.version }, ' ')
  redis.call('HSET', key, 'times', times .. (record.more or ''))
end

-- Two sorted sets order records by idle deadline: the server's and the principal's. They count live sessions and find
-- expired ones. Their names have the virtual server's prefix.
local function sets(key, principal)
  local tag = string.match(key, '^{[^}]*}')
  return tag .. ':sessions', tag .. ':p:' .. principal
end

-- The record's name in the sets. In the server's set it includes the principal, whose set must be found after the
-- record is gone.
local function members(key, principal)
  local name = string.match(key, '([^:]*)$')
  return name .. ' ' .. principal, name
end

-- Extends a set's expiry to that of its longest-lived record.
local function outlast(set, last)
  if redis.call('PTTL', set) < last - now then
    redis.call('PEXPIREAT', set, text(last))
  end
end

-- Adds a record's idle deadline to the sets.
local function note(key, principal, idle, last)
  local server_set, own_set = sets(key, principal)
  local server_member, own_member = members(key, principal)
  redis.call('ZADD', server_set, text(idle), server_member)
  redis.call('ZADD', own_set, text(idle), own_member)
  outlast(server_set, last)
  outlast(own_set, last)
end

-- Removes a record of `principal` from the sets.
local function forget(key, principal)
  local server_set, own_set = sets(key, principal)
  local server_member, own_member = members(key, principal)
  redis.call('ZREM', server_set, server_member)
  redis.call('ZREM', own_set, own_member)
end

-- Moves the idle deadline by `ttl`, at most to the absolute deadline. The key outlives it by `grace`. PEXPIRE comes
-- first: Redis allows it when memory is full, and then also the rest, which needs no more memory. Otherwise sessions
-- in use would expire.
local function move_deadline(key, record, ttl, grace)
  record.idle, record.touched = math.min(now + ttl, record.last), text(now)
  redis.call('PEXPIREAT', key, text(record.idle + grace))
  write_times(key, record)
  note(key, record.principal, record.idle, record.last + grace)
end

local function snapshot(key)
  return { text(now), redis.call('HGETALL', key) }
end

-- The incarnation of the store's data, and when it began. The first script that finds none begins one.
local function incarnation(key, candidate)
  local stored = redis.call('GET', key)
  if not stored then
    stored = candidate .. ' ' .. text(now)
    redis.call('SET', key, stored)
  end
  local name, born = string.match(stored, '^(%S+) (%d+)$')
  return name, tonumber(born)
end

-- Publishes an event. Without the permission to publish there are no subscribers either, and every process reads
-- before use. So a failure here must not fail a change that is done.
local function publish(channel, message)
  redis.pcall(PUBLISH, channel, cjson.encode(message))
end

-- Publishes the record; for a large one, only that it has changed.
local function publish_record(channel, name, record)
  local size = 0
  for _, part in ipairs(record[2]) do
    size = size + #part
  end
  if size > 16384 then
    publish(channel, { 'changed', name })
  else
    publish(channel, { 'record', name, record[1], record[2] })
  end
end

-- The response after a change.
local function changed(key, channel, name, before)
  before.version = text(tonumber(before.version) + 1)
  write_times(key, before)
  local record = snapshot(key)
  publish_record(channel, name, record)
  return record
end

-- Deletes a record that exists and is not alive. Only then: a deletion as the script's first write would make Redis
-- allow the other writes when memory is full.
local function bury(key)
  local dead = head(key)
  forget(key, dead and dead.principal or '')
  redis.call('DEL', key)
end

-- Writes a record where none is alive. ARGV has, from `first` on, its principal, the rest of `fixed`, then further
-- fields and values. A dead record may still have the key.
local function write(key, incarnation, last, version, ttl, grace, first)
  if redis.call('EXISTS', key) == 1 then
    bury(key)
  end
  local record = { principal = ARGV[first], last = last, version = text(version) }
  local fixed = table.concat({ SCHEMA, incarnation, text(last), record.principal, ARGV[first + 1] }, ' ')
  redis.call('HSET', key, 'fixed', fixed, unpack(ARGV, first + 2))
  move_deadline(key, record, ttl, grace)
end
