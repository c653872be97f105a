-- KEYS: records. Those that live again stay.
for _, key in ipairs(KEYS) do
  local principal = redis.call('HGET', key, 'principal')
  if principal and not lives(key) then
    redis.call('DEL', key)
    forget(key, principal)
  end
end
return #KEYS
