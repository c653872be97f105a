-- KEYS: record.
if not lives(KEYS[1]) then
  return false
end
return snapshot(KEYS[1])
