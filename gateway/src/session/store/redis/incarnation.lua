-- KEYS: incarnation. ARGV: a new incarnation.
local current = incarnation(KEYS[1], ARGV[1])
return current
