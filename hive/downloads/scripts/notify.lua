-- Puts what is to be told of an end on the list of webhooks to send (see WebhookOutbox), in one step with the end:
-- those that its requests brought, and those of the settings, which the servers keep written in Redis.
local function notify(id)
  local own, now = 'hive:webhooks:{' .. id .. '}', int(now_ms())
  local function due(name) redis.call('ZADD', 'hive:webhooks:due', now, id .. '/' .. name) end
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', 'hive:webhooks:standing', now, '+inf')) do due(name) end
  for _, field in ipairs(redis.call('HKEYS', own)) do
    if string.sub(field, 1, 2) == 't:' then due(string.sub(field, 3)) end
  end
end
