-- Sealed credentials for a download that was joined by who brought its first token.
-- -> 1 taken, 0 refused: it has ended, has some already, or is fetched with another's.
local record, secret = unpack(KEYS)
local permission, sealed, sealed_ttl_s = unpack(ARGV)

local r = redis.call('HMGET', record, 'terminal', 'permission')
if r[1] ~= '0' or r[2] ~= permission or redis.call('EXISTS', secret) == 1 then return 0 end
redis.call('SET', secret, sealed, 'EX', sealed_ttl_s)
return 1
