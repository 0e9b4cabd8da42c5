-- Sends a message again later, with this body ('' for none yet). `member` is id/name. -> 1, or 0 for an old ticket.
local due, webhooks = unpack(KEYS)
local member, ticket, wait_ms, body = unpack(ARGV)
--! include prelude

if redis.call('ZSCORE', due, member) ~= ticket then return 0 end
redis.call('ZADD', due, int(now_ms() + wait_ms), member)
if body ~= '' then redis.call('HSET', webhooks, 'body', body) end
return 1
