-- Takes the lease of a partial file to remove it, from the ended download `id` itself or from nobody.
-- -> 1 when nobody else holds it.
local file = unpack(KEYS)
local id, lease_ms = unpack(ARGV)

local owner = redis.call('GET', file)
if owner and string.sub(owner, 1, #id) ~= id then return 0 end
redis.call('SET', file, id .. ' 0', 'PX', lease_ms)
return 1
