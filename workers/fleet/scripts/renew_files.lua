-- Takes or keeps the leases of these partial files, which are KEYS: all of them, or none. An earlier attempt of the same
-- download (its owner is `<id> <fence>`) gives way.
-- -> 1 when all are ours (again), 0 when one is somebody else's.
local owner, lease_ms, id, fence, lease_max_ms = unpack(ARGV)

for _, key in ipairs(KEYS) do
  local holder = redis.call('GET', key)
  if holder and holder ~= owner then
    local its_id, its_fence = string.match(holder, '^(%S+) (%d+)$')
    if its_id ~= id or tonumber(its_fence) > tonumber(fence) then
      -- Longer than any lease: Redis' clock was set back. Its holder renews it, or it is free then.
      if redis.call('PTTL', key) > tonumber(lease_max_ms) then redis.call('PEXPIRE', key, lease_max_ms) end
      return 0
    end
  end
end
for _, key in ipairs(KEYS) do redis.call('SET', key, owner, 'PX', lease_ms) end
return 1
