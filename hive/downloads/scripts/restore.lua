-- Makes the record of a download again that Redis has lost (hive/downloads/restore.py). `state`: `queued`, `running` or
-- `paused`; `fence` of its last worker or 0. The rest of ARGV: the record's fields as name, value, ...
-- A running one keeps its fence, so that its worker, if it lives, goes on as if nothing had been; the others take a new
-- one. -> 1 made, 0 there was one.
local record, channel, flight, downloads, pending, leases = unpack(KEYS)
local id, state, fence, created_ms, lease_ms, priority, event = unpack(ARGV)
--! include prelude
--! include owners
--! include turns

if redis.call('EXISTS', record) == 1 then return 0 end
for i = 8, #ARGV, 2 do redis.call('HSET', record, ARGV[i], ARGV[i + 1]) end
redis.call('HSET', record, 'id', id, 'state', state, 'created_ms', created_ms, 'priority', priority)
redis.call('ZADD', downloads, created_ms, id)
index(id, state, created_ms)
for owner in string.gmatch(redis.call('HGET', record, 'owners') or '', '[^\n]+') do index_owner(id, owner, created_ms) end
local under_way = redis.call('GET', flight)
if not under_way or redis.call('HGET', 'hive:{' .. under_way .. '}', 'terminal') ~= '0' then
  redis.call('SET', flight, id)
end
local now = now_ms()
if state == 'running' then
  -- Nobody is told: all who listen have heard more than this from the worker.
  redis.call('HSET', record, 'claimed_ms', int(now), 'started_ms', int(now), 'updated_ms', int(now))
  redis.call('HSET', record, 'fence', fence, 'seq', '1', 'terminal', '0', 'event', event)
  redis.call('ZADD', leases, int(now + lease_ms), id)
  return 1
end
if state == 'queued' then
  redis.call('HSET', record, 'queued_ms', int(now))
  enter(id, whose_turn(nil, redis.call('HGET', record, 'owners')), priority, created_ms)
else
  redis.call('SADD', PAUSED, id)
end
say(record, channel, int(math.max(now, tonumber(fence) + 1)), '1', '0', event)
return 1
