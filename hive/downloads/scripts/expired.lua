-- The downloads whose lease has run out, of the first `limit`. A lease that ends later than its worker can have asked for
-- was taken by a clock that has been set back since: it counts from now, so that a worker that lives can renew it, and
-- one that is dead is not waited for. `lease_max_ms`: the longest of any worker whose own is not known.
-- -> {id, ...}
local leases = unpack(KEYS)
local lease_ms, lease_max_ms, limit = unpack(ARGV)
--! include prelude

local now = now_ms()
for _, id in ipairs(redis.call('ZRANGEBYSCORE', leases, int(now + 1.5 * lease_ms), '+inf', 'LIMIT', 0, limit)) do
  local own_ms = tonumber(redis.call('HGET', 'hive:{' .. id .. '}', 'lease_ms') or lease_max_ms)
  if tonumber(redis.call('ZSCORE', leases, id)) > now + 1.5 * own_ms then
    redis.call('ZADD', leases, int(now + own_ms), id)
  end
end
return redis.call('ZRANGEBYSCORE', leases, '-inf', int(now), 'LIMIT', 0, limit)
