-- A worker says that it lives, what has changed (the rest of ARGV: fields as name, value, ...), and how far its model is
-- loaded: `event` is '' where that is as it was. After the end of loading only the fields change.
-- -> 'ok', the state of one that has ended, or 'unknown' where Redis has no such worker
local record, workers, channel = unpack(KEYS)
local id, lease_ms, fence, seq, terminal, event = unpack(ARGV)

local r = redis.call('HMGET', record, 'state', 'terminal', 'fence', 'seq')
if not r[1] then return 'unknown' end
if r[1] == 'stopped' or r[1] == 'failed' then return r[1] end
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
for i = 7, #ARGV, 2 do redis.call('HSET', record, ARGV[i], ARGV[i + 1]) end
redis.call('HSET', record, 'heartbeat_ms', string.format('%.0f', now))
redis.call('ZADD', workers, string.format('%.0f', now + tonumber(lease_ms)), id)
if event ~= '' and r[2] ~= '1' then
  local newer = tonumber(fence) > tonumber(r[3] or '0')
    or (tonumber(fence) == tonumber(r[3] or '0') and tonumber(seq) > tonumber(r[4] or '0'))
  if newer then
    redis.call('HSET', record, 'fence', fence, 'seq', seq, 'terminal', terminal, 'event', event)
    redis.call('PUBLISH', channel, fence .. '-' .. seq .. ' ' .. terminal .. ' ' .. event)
  end
end
return 'ok'
