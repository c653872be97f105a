-- KEYS: incarnation, channel, records. ARGV: a new incarnation, lifetime, ttl, grace, session limits of the server
-- and of each principal, the writer, then for each record the principal, the rest of `fixed`, and the principal's
-- other tags. The response has one letter per record: [c]reated, [t]aken, or the limit that is reached, [s]erver or
-- [p]rincipal.
local fixed_args, args_each = 7, 3
local current = incarnation(KEYS[1], ARGV[1])
local last = now + tonumber(ARGV[2])
local idle = math.min(now + tonumber(ARGV[3]), last)
local grace = tonumber(ARGV[4])
local server_limit, own_limit = tonumber(ARGV[5]), tonumber(ARGV[6])
local idle_text, last_text, key_end = text(idle), text(last), text(idle + grace)
local times = table.concat({ idle_text, text(now), text(now) }, ' ')
local fixed = table.concat({ SCHEMA, current, last_text, '' }, ' ')
local tag = string.match(KEYS[1], '^{[^}]*}')
local name_at = #tag + #':s:' + 1

-- The sets involved, each with its number of live sessions and the entries to add.
local concerned = {}
local function set_of(name)
  local set = concerned[name]
  if not set then
    set = { living = redis.call('ZCOUNT', name, '(' .. text(now), '+inf'), added = {} }
    concerned[name] = set
  end
  return set
end
local function add(set, member)
  local size = #set.added
  set.added[size + 1], set.added[size + 2] = idle_text, member
  set.living = set.living + 1
end

local server = set_of(tag .. ':sessions')
local outcomes, told, written = {}, {}, {}
-- Usually no key exists, which one EXISTS of all keys shows. A key that this script writes may occur twice.
local all_new = redis.call('EXISTS', unpack(KEYS, 3)) == 0
for index = 3, #KEYS do
  local key, arg = KEYS[index], fixed_args + (index - 3) * args_each
  local principal, agreed = ARGV[arg + 1], ARGV[arg + 2]
  -- A principal with the same limit as the server is not counted. If a limit is set later, existing sessions count
  -- from their next use.
  local own, count = nil, 0
  if own_limit < server_limit then
    own = set_of(tag .. ':p:' .. principal)
    count = own.living
    for other in string.gmatch(ARGV[arg + 3], '%S+') do
      count = count + set_of(tag .. ':p:' .. other).living
    end
  end
  local there = written[key] or not all_new and redis.call('EXISTS', key) == 1
  if there and lives(key) then
    outcomes[#outcomes + 1] = 't'
  elseif server.living >= server_limit then
    outcomes[#outcomes + 1] = 's'
  elseif count >= own_limit then
    outcomes[#outcomes + 1] = 'p'
  else
    if there then
      bury(key)
    end
    redis.call('HSET', key, 'fixed', fixed .. principal .. ' ' .. agreed, 'times', times)
    redis.call('PEXPIREAT', key, key_end)
    written[key] = true
    local name = string.sub(key, name_at)
    add(server, name .. ' ' .. principal)
    if own then
      add(own, name)
    end
    -- No process has a large new record cached yet, so there is no change to publish.
    if #agreed <= 16384 then
      told[#told + 1] = name
      told[#told + 1] = principal .. ' ' .. agreed
    end
    outcomes[#outcomes + 1] = 'c'
  end
end
for name, set in pairs(concerned) do
  if #set.added > 0 then
    redis.call('ZADD', name, unpack(set.added))
    outlast(name, last + grace)
  end
end
if #told > 0 then
  publish(KEYS[2], { 'created', ARGV[7], text(now), fixed, times, told })
end
return { text(now), last_text, current, table.concat(outcomes) }
