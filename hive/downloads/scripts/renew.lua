-- Renews the lease. -> {1, control} or {0, ''} when fenced out.
local record, leases = unpack(KEYS)
local id, fence, lease_ms = unpack(ARGV)
--! include prelude

local r = redis.call('HMGET', record, 'state', 'fence', 'control')
if r[1] ~= 'running' or r[2] ~= fence then return {0, ''} end
redis.call('ZADD', leases, int(now_ms() + lease_ms), id)
return {1, r[3] or ''}
