-- A worker has ended: `state` is stopped or failed, `event` tells those who watch it load, where that had no end yet.
-- `only_late` is 1 for whoever found its lease run out, which another may have renewed meanwhile.
-- -> 1 where this call ended it
local record, workers, channel = unpack(KEYS)
local id, state, event, ttl_s, only_late = unpack(ARGV)

local r = redis.call('HMGET', record, 'state', 'terminal', 'fence', 'flight')
if not r[1] then
  redis.call('ZREM', workers, id)
  return 0
end
if r[1] == 'stopped' or r[1] == 'failed' then return 0 end
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
if only_late == '1' and tonumber(redis.call('ZSCORE', workers, id) or '0') >= now then return 0 end
redis.call('HSET', record, 'state', state, 'heartbeat_ms', string.format('%.0f', now))
redis.call('EXPIRE', record, ttl_s)
redis.call('ZREM', workers, id)
if r[4] and r[4] ~= '' then
  local flight = 'hive:llm:model:' .. r[4]
  if redis.call('GET', flight) == id then redis.call('DEL', flight) end
end
if r[2] ~= '1' then
  local fence = string.format('%.0f', math.max(now, tonumber(r[3] or '0') + 1))
  redis.call('HSET', record, 'fence', fence, 'seq', '1', 'terminal', '1', 'event', event)
  redis.call('PUBLISH', channel, fence .. '-1 1 ' .. event)
end
return 1
