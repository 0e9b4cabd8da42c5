-- Changes fields of a member's heartbeat that is there; the rest of ARGV: the fields as name, value, ... A look and then
-- a write would make a hash without an expiry where the old one expired in between. -> 1 when it was there.
local member = unpack(KEYS)

if redis.call('PTTL', member) <= 0 then return 0 end
for i = 1, #ARGV, 2 do redis.call('HSET', member, ARGV[i], ARGV[i + 1]) end
return 1
