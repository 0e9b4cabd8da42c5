-- Compare and delete: gives a key up that still holds `value`. -> 1 when it did.
local key = unpack(KEYS)
local value = unpack(ARGV)

if redis.call('GET', key) == value then return redis.call('DEL', key) end
return 0
