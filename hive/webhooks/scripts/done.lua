-- Forgets a message that was taken, or is given up. `member` is id/name. -> 1
local due, webhooks = unpack(KEYS)
local member, name = unpack(ARGV)

redis.call('ZREM', due, member)
redis.call('HDEL', webhooks, 't:' .. name, 'n:' .. name, 'h:' .. name)
local left = redis.call('HKEYS', webhooks)
if #left == 1 and left[1] == 'body' then redis.call('DEL', webhooks) end
return 1
