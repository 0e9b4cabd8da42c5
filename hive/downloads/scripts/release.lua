-- Takes a download out of a worker's hands or the queue: back to the queue as its next attempt, or aside (`paused`); and
-- a paused one back to the queue. `fence` as read; `attempt` is the next one; `counts`: 1 when an attempt without a new
-- byte is a stall; `expired_only`: 1 when only an expired lease may go; `to`: `queued` or `paused`; `received`,
-- `refetched`: bytes of this attempt so far; `behind`: 1 for a place as if it were asked for now, not its old one.
-- -> 1 released, 0 refused.
local record, channel, pending, leases = unpack(KEYS)
local id, fence, attempt, counts, expired_only, event, to, received, refetched, behind = unpack(ARGV)
--! include prelude
--! include turns

local r = redis.call('HMGET', record, 'state', 'fence', 'attempt', 'bytes_done', 'bytes_at_claim', 'stalls', 'control',
  'claimed_ms', 'priority', 'created_ms', 'received', 'refetched', 'line', 'owners', 'turn',
  'place_ms')
if r[1] == to and r[3] == attempt then return 1 end
if (r[1] ~= 'running' and r[1] ~= 'queued' and r[1] ~= 'paused') or r[2] ~= fence then return 0 end
if expired_only == '1' then
  -- One that waits has no lease: another reaper was here between the look at the leases and that at the record.
  if r[1] ~= 'running' then return 0 end
  local until_ms = redis.call('ZSCORE', leases, id)
  if until_ms and tonumber(until_ms) > now_ms() then return 0 end
end
local stalls = tonumber(r[6] or '0')
if tonumber(r[4] or '0') > tonumber(r[5] or '0') then stalls = 0 elseif counts == '1' then stalls = stalls + 1 end
redis.call('HSET', record, 'state', to, 'status', to, 'attempt', attempt, 'stalls', stalls)
redis.call('HSET', record, 'owner', '', 'worker', '')
redis.call('ZREM', leases, id)
index(id, to, r[10])
if r[1] == 'running' then
  count_active(record, r[8])
  count_bytes(record, 'received', received, r[11])
  count_bytes(record, 'refetched', refetched, r[12])
  count((counts == '1' and 'recovered') or (r[7] == 'yield' and 'preempted') or 'released')
end
if to == 'queued' then
  if r[7] == 'yield' then redis.call('HSET', record, 'control', '') end
  redis.call('HSET', record, 'queued_ms', int(now_ms()))
  local owner = whose_turn(r[13], r[14])
  if behind == '1' then
    step_out(id, owner)
    enter(id, owner, r[9], now_ms())
  elseif not redis.call('ZSCORE', pending, id) then
    come_back(id, owner, r[15], r[9], r[16] or r[10])
  end
  redis.call('SREM', PAUSED, id)
else
  redis.call('HSET', record, 'control', '')
  redis.call('HDEL', record, 'turn')
  step_out(id, whose_turn(r[13], r[14]))
  redis.call('SADD', PAUSED, id)
end
say(record, channel, next_fence(record), '1', '0', event)
return 1
