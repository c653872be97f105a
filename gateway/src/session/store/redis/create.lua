-- KEYS: incarnation, channel, records. ARGV: a new incarnation, lifetime, ttl, grace, how many sessions the virtual server and each
-- principal may have, who writes, then for each record the principal, what is written behind it, and the other names of the principal.
-- The answer has a letter for each record: [c]reated, [t]aken, or whose limit it is, the [s]erver's or the [p]rincipal's.
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

-- The sets that are concerned, each with how many sessions live in it and what is put into it.
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
-- Nearly always no key is there: one look at all of them says so. One that is written here may be asked for twice.
local all_new = redis.call('EXISTS', unpack(KEYS, 3)) == 0
for index = 3, #KEYS do
  local key, arg = KEYS[index], fixed_args + (index - 3) * args_each
  local principal, agreed = ARGV[arg + 1], ARGV[arg + 2]
  -- A principal who may have as many as the virtual server is not counted; when there is a limit later, his sessions count from their
  -- next use on.
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
    -- Of a large one nobody knows yet that could have to be told.
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
