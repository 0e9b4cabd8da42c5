-- Makes this the latest event, and renews the lease. `received`, `refetched`: bytes of this attempt so far; `found`:
-- bytes that were on disk already, or ''.
-- -> {1, control} or {0, ''} when fenced out.
local record, channel, leases = unpack(KEYS)
local id, fence, seq, event, lease_ms, status, bytes_done, received, refetched, found = unpack(ARGV)
--! include prelude

local r = redis.call('HMGET', record, 'state', 'fence', 'seq', 'control', 'received', 'refetched')
if r[1] ~= 'running' or r[2] ~= fence then return {0, ''} end
redis.call('ZADD', leases, int(now_ms() + lease_ms), id)
if tonumber(seq) > tonumber(r[3]) then
  redis.call('HSET', record, 'status', status, 'bytes_done', bytes_done)
  count_bytes(record, 'received', received, r[5])
  count_bytes(record, 'refetched', refetched, r[6])
  if found ~= '' then redis.call('HSETNX', record, 'bytes_found', found) end
  say(record, channel, fence, seq, '0', event)
end
return {1, r[4] or ''}
