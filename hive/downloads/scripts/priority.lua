-- Changes the priority, and the place in the queue with it. Of one that runs nobody is told: its events are its
-- worker's. `fence` as read. -> 1, or 0 when it has ended or changed hands.
local record, channel, pending = unpack(KEYS)
local id, fence, priority, event = unpack(ARGV)
--! include prelude
--! include turns

local r = redis.call('HMGET', record, 'terminal', 'created_ms', 'fence', 'state', 'event', 'priority',
  'line', 'owners', 'place_ms')
if r[1] ~= '0' then return 0 end
if r[5] == event and r[6] == priority then return 1 end
if r[3] ~= fence then return 0 end
redis.call('HSET', record, 'priority', priority)
if r[6] ~= priority and redis.call('ZSCORE', pending, id) then
  step_out(id, whose_turn(r[7], r[8]))
  enter(id, whose_turn(r[7], r[8]), priority, r[9] or r[2])
end
if r[4] ~= 'running' then say(record, channel, next_fence(record), '1', '0', event) end
return 1
