-- Every script begins with this, behind a line that says how to publish and which records this gateway reads.

-- A replica answers reads from data that may be old. This writes nothing, because there is no such key, but only a primary may try. It
-- must be a command that Redis refuses when its memory is full: behind one that it allows, it would allow all others of the script.
local refusal = redis.pcall('SET', string.match(KEYS[1], '^{[^}]*}') .. ':role', '', 'XX')
if type(refusal) == 'table' and refusal.err and string.find(refusal.err, 'READONLY', 1, true) then
  return refusal
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- Milliseconds as text; Lua alone would write large numbers with an exponent.
local function text(millis)
  return string.format('%.0f', millis)
end

-- What is read of a record here. Two fields say it, each several things behind each other: a field more costs Redis as much as what it
-- holds. `fixed` never changes: the schema, the incarnation, the end, the principal, and what only gateways read. `times` is the idle
-- deadline, when it was moved, and the version. Every schema begins both like this, so that every gateway knows what lives. Of a damaged
-- record something is missing; nil: there is none.
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

-- The head of the record if it lives, otherwise false: it is there, and neither of its deadlines has passed. A damaged one lives as long
-- as its key does, because whoever believed it gone would end its session.
local function lives(key)
  local record = head(key)
  return record and (not record.sound or now < record.idle and now < record.last) and record or false
end

-- Writes down what has changed. What a newer schema says behind it stays.
local function write_times(key, record)
  local times = table.concat({ text(record.idle), record.touched, record.version }, ' ')
  redis.call('HSET', key, 'times', times .. (record.more or ''))
end

-- Two sorted sets know the idle deadlines: that of the virtual server, and that of the principal. They say how many sessions live, and
-- which have expired. Their names begin as those of all keys of the virtual server do.
local function sets(key, principal)
  local tag = string.match(key, '^{[^}]*}')
  return tag .. ':sessions', tag .. ':p:' .. principal
end

-- The name of the record in the sets: in that of the server with its principal, whose set must be found when the record is gone.
local function members(key, principal)
  local name = string.match(key, '([^:]*)$')
  return name .. ' ' .. principal, name
end

-- Lets a set last as long as any record in it can.
local function outlast(set, last)
  if redis.call('PTTL', set) < last - now then
    redis.call('PEXPIREAT', set, text(last))
  end
end

-- Puts a record's idle deadline into the sets.
local function note(key, principal, idle, last)
  local server_set, own_set = sets(key, principal)
  local server_member, own_member = members(key, principal)
  redis.call('ZADD', server_set, text(idle), server_member)
  redis.call('ZADD', own_set, text(idle), own_member)
  outlast(server_set, last)
  outlast(own_set, last)
end

-- Takes a record out of the sets; `principal` is whose it is.
local function forget(key, principal)
  local server_set, own_set = sets(key, principal)
  local server_member, own_member = members(key, principal)
  redis.call('ZREM', server_set, server_member)
  redis.call('ZREM', own_set, own_member)
end

-- Moves the idle deadline by `ttl`, not beyond the end. The key outlives it by `grace`, which is written first: Redis allows that when
-- its memory is full, and then also the rest, which takes no more of it. Otherwise sessions in use would expire.
local function move_deadline(key, record, ttl, grace)
  record.idle, record.touched = math.min(now + ttl, record.last), text(now)
  redis.call('PEXPIREAT', key, text(record.idle + grace))
  write_times(key, record)
  note(key, record.principal, record.idle, record.last + grace)
end

local function snapshot(key)
  return { text(now), redis.call('HGETALL', key) }
end

-- The life of the data that the store holds, and when it began. The first script that misses it begins one.
local function incarnation(key, candidate)
  local stored = redis.call('GET', key)
  if not stored then
    stored = candidate .. ' ' .. text(now)
    redis.call('SET', key, stored)
  end
  local name, born = string.match(stored, '^(%S+) (%d+)$')
  return name, tonumber(born)
end

-- Tells every process. Where the user may not publish, nobody may subscribe either, and every process reads again before it
-- believes what it remembers; so that this is no reason to fail behind a change that is done.
local function publish(channel, message)
  redis.pcall(PUBLISH, channel, cjson.encode(message))
end

-- Tells every process what the record is now; of a large one, only that it has changed.
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

-- The record behind a change.
local function changed(key, channel, name, before)
  before.version = text(tonumber(before.version) + 1)
  write_times(key, before)
  local record = snapshot(key)
  publish_record(channel, name, record)
  return record
end

-- Removes a record that is there and does not live. Only then: as the first write of a script a deletion would make Redis allow the
-- others also when its memory is full.
local function bury(key)
  local dead = head(key)
  forget(key, dead and dead.principal or '')
  redis.call('DEL', key)
end

-- Writes a record where none lives. From `first` on ARGV has its principal, the rest of `fixed`, then further fields and values. A dead
-- one of that key may still be there.
local function write(key, incarnation, last, version, ttl, grace, first)
  if redis.call('EXISTS', key) == 1 then
    bury(key)
  end
  local record = { principal = ARGV[first], last = last, version = text(version) }
  local fixed = table.concat({ SCHEMA, incarnation, text(last), record.principal, ARGV[first + 1] }, ' ')
  redis.call('HSET', key, 'fixed', fixed, unpack(ARGV, first + 2))
  move_deadline(key, record, ttl, grace)
end
