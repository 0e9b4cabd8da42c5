-- Takes up to `most` messages that are due, and writes the names of the settings' webhooks, which are the rest of ARGV.
-- -> {{id/name, ticket, number of this try, sealed URL or '', body or ''}, ...}
local due, standing = unpack(KEYS)
local most, hidden_ms, kept_s, standing_ms, withdrawn_after_ms, rewritten_after_ms, dropped_after_ms, wait_max_ms = unpack(ARGV)
--! include prelude

local now = now_ms()
for i = 9, #ARGV do
  local until_ms = tonumber(redis.call('ZSCORE', standing, ARGV[i]) or '0')
  if until_ms < now + standing_ms - rewritten_after_ms then
    redis.call('ZADD', standing, int(now + standing_ms), ARGV[i])
  end
end
redis.call('ZREMRANGEBYSCORE', standing, '-inf', int(now + standing_ms - withdrawn_after_ms))
redis.call('ZREMRANGEBYSCORE', due, '-inf', int(now - dropped_after_ms))
-- What is due later than anything may be was put there by a clock that has been set back since.
for _, member in ipairs(redis.call('ZRANGEBYSCORE', due, int(now + wait_max_ms), '+inf', 'LIMIT', 0, 100)) do
  redis.call('ZADD', due, int(now), member)
end
for _, name in ipairs(redis.call('ZRANGEBYSCORE', standing, '(' .. int(now + standing_ms), '+inf')) do
  redis.call('ZADD', standing, int(now + standing_ms), name)
end
local found = {}
if most == '0' then return found end
for _, member in ipairs(redis.call('ZRANGEBYSCORE', due, '-inf', int(now), 'LIMIT', 0, most)) do
  local id, name = string.match(member, '^([^/]+)/(.+)$')
  local own = 'hive:webhooks:{' .. id .. '}'
  local ticket = int(now + hidden_ms)
  redis.call('ZADD', due, ticket, member)
  local number = redis.call('HINCRBY', own, 'n:' .. name, 1)
  redis.call('EXPIRE', own, kept_s)
  local kept = redis.call('HMGET', own, 't:' .. name, 'body')
  found[#found + 1] = {member, ticket, number, kept[1] or '', kept[2] or ''}
end
return found
