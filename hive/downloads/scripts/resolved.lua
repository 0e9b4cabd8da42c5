-- A queued download is known now: its name, and what its event says of sizes. `fence` as read, so that whoever claims,
-- pauses or ends it meanwhile wins. -> 1, or 0 when it is not queued any more.
local record, channel = unpack(KEYS)
local fence, name, event = unpack(ARGV)
--! include prelude

local r = redis.call('HMGET', record, 'state', 'fence')
if r[1] ~= 'queued' or r[2] ~= fence then return 0 end
redis.call('HSET', record, 'name', name)
say(record, channel, next_fence(record), '1', '0', event)
return 1
