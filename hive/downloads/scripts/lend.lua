-- Sealed credentials for a download that was joined by who brought its first token.
-- -> 'lent'; 'kept': it has some already, or is fetched with another's; 'ended': it takes none any more.
local record, secret = unpack(KEYS)
local permission, sealed, sealed_ttl_s = unpack(ARGV)

local r = redis.call('HMGET', record, 'terminal', 'permission')
if r[1] ~= '0' then return 'ended' end
if r[2] ~= permission or redis.call('EXISTS', secret) == 1 then return 'kept' end
redis.call('SET', secret, sealed, 'EX', sealed_ttl_s)
return 'lent'
