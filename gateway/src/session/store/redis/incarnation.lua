-- KEYS: incarnation. ARGV: a new one.
local current = incarnation(KEYS[1], ARGV[1])
return current
