-- A worker takes hold of a queued download. `max_running`: the limit by the settings, 0 for none.
-- -> the fence, '' when it is not queued (any more), or queued for another attempt, 'full' when as many run as may.
local record, channel, pending, leases, running_limit = unpack(KEYS)
local id, attempt, owner, lease_ms, worker, event, max_running = unpack(ARGV)
--! include prelude
--! include turns

local r = redis.call('HMGET', record, 'state', 'attempt', 'owner', 'fence', 'bytes_done', 'queued_ms', 'created_ms',
  'line', 'owners')
if r[1] == 'running' and r[3] == owner then return r[4] end
if r[1] ~= 'queued' then redis.call('ZREM', pending, id) end
if r[1] ~= 'queued' or r[2] ~= attempt then return '' end
-- What is no number counts as none (read_limit in admission.py): it must not stop the queue.
local set = redis.call('GET', running_limit) or ''
local most = tonumber(string.match(set, '^%d+$') and #set <= 15 and set or max_running)
if most > 0 and redis.call('ZCARD', leases) >= most then return 'full' end
local fence = next_fence(record)
local now = now_ms()
redis.call('HSET', record, 'state', 'running', 'status', 'resolving', 'owner', owner, 'worker', worker,
  'lease_ms', lease_ms)
redis.call('HSET', record, 'bytes_at_claim', r[5] or '0', 'claimed_ms', int(now), 'received', '0', 'refetched', '0')
redis.call('HDEL', record, 'expected')
redis.call('HSETNX', record, 'started_ms', int(now))
local waited_ms = math.max(now - tonumber(r[6] or now), 0)
count('claims')
count('queue_wait_ms', waited_ms)
for _, class_s in ipairs(WAIT_CLASSES_S) do
  if waited_ms <= class_s * 1000 then count('queue_wait_le_' .. class_s) end
end
take_turn(record, id, whose_turn(r[8], r[9]))
index(id, 'running', r[7])
redis.call('ZADD', leases, int(now + lease_ms), id)
say(record, channel, fence, '1', '0', event)
return fence
