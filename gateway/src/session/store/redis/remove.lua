-- KEYS: records. Those that are alive again stay.
for _, key in ipairs(KEYS) do
  local record = head(key)
  if record and record.principal and not lives(key) then
    redis.call('DEL', key)
    forget(key, record.principal)
  end
end
return #KEYS
