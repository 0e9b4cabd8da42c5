-- The one end. `fence` as read or held; `seq` is '' from outside, which takes a new fence; `expired_only`: 1 when only
-- an expired lease may go; `code` of the error or ''; `received`, `refetched`: bytes of this attempt; `total`: bytes in
-- all, or '' where they are not known or not all there.
-- -> 1 ended (or was ended by this very call), 0 refused.
local record, channel, pending, leases, flight, secret = unpack(KEYS)
local id, fence, seq, state, event, ended_ttl_s, local_path, expired_only, code, received, refetched, total = unpack(ARGV)
--! include prelude
--! include turns
--! include notify

local r = redis.call('HMGET', record, 'terminal', 'fence', 'seq', 'event', 'state', 'claimed_ms', 'received',
  'refetched', 'created_ms', 'line', 'owners')
if r[1] == '1' and r[4] == event then return 1 end
if r[1] ~= '0' or r[2] ~= fence then return 0 end
if expired_only == '1' then
  if r[5] ~= 'running' then return 0 end
  local until_ms = redis.call('ZSCORE', leases, id)
  if until_ms and tonumber(until_ms) > now_ms() then return 0 end
end
if seq == '' then fence, seq = next_fence(record), '1' end
redis.call('HSET', record, 'state', state, 'status', state, 'ended_ms', int(now_ms()), 'local_path', local_path)
step_out(id, whose_turn(r[10], r[11]))
redis.call('ZREM', leases, id)
redis.call('SREM', PAUSED, id)
index(id, state, r[9])
if r[5] == 'running' then count_active(record, r[6]) end
count_bytes(record, 'received', received, r[7])
count_bytes(record, 'refetched', refetched, r[8])
if total ~= '' then
  -- What a killed worker had received and not kept shows only now: more came than was missing.
  local b = redis.call('HMGET', record, 'bytes_received', 'bytes_found', 'bytes_refetched')
  local again = tonumber(b[1] or '0') - (tonumber(total) - tonumber(b[2] or '0'))
  count_bytes(record, 'refetched', int(tonumber(refetched) + math.max(again - tonumber(b[3] or '0'), 0)), refetched)
end
count('ended_' .. state)
if state == 'failed' then count('fault_' .. code) end
redis.call('DEL', secret)
redis.call('EXPIRE', record, ended_ttl_s)
if redis.call('GET', flight) == id then redis.call('EXPIRE', flight, ended_ttl_s) end
notify(id)
say(record, channel, fence, seq, '1', event)
return 1
