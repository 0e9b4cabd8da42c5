-- Reserves `needed` bytes where they fit into `free` beside what other downloads with a lease have reserved.
-- -> {1, bytes reserved by others} and it is reserved, or {0, ...} when it does not fit beside them.
local reservations, leases = unpack(KEYS)
local id, needed, free = unpack(ARGV)

local others = 0
local entries = redis.call('HGETALL', reservations)
for i = 1, #entries, 2 do
  if entries[i] ~= id then
    if redis.call('ZSCORE', leases, entries[i]) then
      others = others + (tonumber(string.match(entries[i + 1], '^%d+$') or '0'))
    else
      redis.call('HDEL', reservations, entries[i])
    end
  end
end
if tonumber(needed) > 0 and tonumber(needed) + others > tonumber(free) then return {0, others} end
redis.call('HSET', reservations, id, needed)
return {1, others}
