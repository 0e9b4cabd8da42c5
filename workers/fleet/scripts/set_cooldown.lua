-- A host rests for `rest_ms`; a shorter rest never ends a longer one, unless that is longer than any may be: Redis'
-- clock was set back. -> ms that are left.
local cooldown = unpack(KEYS)
local rest_ms, rest_max_ms = unpack(ARGV)

local left = redis.call('PTTL', cooldown)
if left >= tonumber(rest_ms) and left <= tonumber(rest_max_ms) then return left end
redis.call('SET', cooldown, '1', 'PX', rest_ms)
return tonumber(rest_ms)
