-- A new LLM worker, or the one that has the same model already; `shares` is 0 for one that stands for itself. One that
-- was given up for want of a sign of life, and lives, comes back. The rest of ARGV: the record's fields as name,
-- value, ...
-- -> {id, 'created' | 'joined'}
local record, workers, flight = unpack(KEYS)
local id, lease_ms, shares = unpack(ARGV)

local was = redis.call('HGET', record, 'state')
if was and was ~= 'failed' then return {id, 'created'} end
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
if shares == '1' then
  local other = redis.call('GET', flight)
  if other and other ~= id then
    local state = redis.call('HGET', 'hive:llm:{' .. other .. '}', 'state')
    local alive = tonumber(redis.call('ZSCORE', workers, other) or '0') >= now
    if alive and (state == 'queued' or state == 'loading' or state == 'idle' or state == 'busy') then
      return {other, 'joined'}
    end
  end
  redis.call('SET', flight, id)
end
if was then redis.call('DEL', record) end
for i = 4, #ARGV, 2 do redis.call('HSET', record, ARGV[i], ARGV[i + 1]) end
local ms = string.format('%.0f', now)
redis.call('HSET', record, 'id', id, 'created_ms', ms, 'heartbeat_ms', ms, 'lease_ms', lease_ms)
redis.call('ZADD', workers, string.format('%.0f', now + tonumber(lease_ms)), id)
return {id, 'created'}
