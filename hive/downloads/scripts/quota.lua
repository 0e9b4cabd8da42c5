-- What a claimed download is about to receive, against the bytes that its first owner may receive on a day: those that
-- came, and those that the owner's other running downloads have still to receive. `expected`: bytes of this attempt in
-- all, also those that came; `least`: as many will do. 0 where nothing is known yet: then what came alone counts.
-- `most_bytes`: of a day.
-- -> {1, bytes of the attempt that may come} also where nobody has a key or the claim is lost (the next word of it says
-- so); {0, what is left of the day}.
local record, leases = unpack(KEYS)
local id, fence, expected, least, most_bytes = unpack(ARGV)
--! include prelude

local function first_of(lines) return string.match(lines or '', '^[^\n]+') end
-- Bytes that another running download of this owner has still to receive.
local function outstanding(other, owner)
  local r = redis.pcall('HMGET', 'hive:{' .. other .. '}', 'owners', 'expected', 'received')
  if other == id or r.err or first_of(r[1]) ~= owner then return 0 end
  return math.max((tonumber(r[2] or '0') or 0) - (tonumber(r[3] or '0') or 0), 0)
end
local r = redis.call('HMGET', record, 'fence', 'owners', 'received')
local owner = first_of(r[2])
if r[1] ~= fence or not owner then return {1, tonumber(expected)} end
local came = tonumber(r[3] or '0') or 0
local left = tonumber(most_bytes) - (tonumber(redis.call('HGET', quota_key(now_ms()), owner) or '0') or 0)
if expected == '0' then return {left > 0 and 1 or 0, math.max(left, 0)} end
for _, other in ipairs(redis.call('ZRANGE', leases, 0, 9999)) do left = left - outstanding(other, owner) end
if least - came > left then return {0, math.max(left, 0)} end
local granted = math.min(tonumber(expected), came + left)
redis.call('HSET', record, 'expected', int(granted))
return {1, granted}
