-- Takes a record that cannot be read out of everybody's way: of the list, the queue and the leases. What was in it stays
-- for a while, for somebody to look at.
-- -> 1 when it was in the way.
local record, downloads, pending, leases, unreadable = unpack(KEYS)
local id, kept_s = unpack(ARGV)
--! include prelude

if redis.call('TYPE', record).ok == 'hash' then
  for owner in string.gmatch(redis.call('HGET', record, 'owners') or '', '[^\n]+') do
    redis.call('ZREM', 'hive:owner:' .. owner, id)
    redis.call('ZREM', 'hive:line:' .. owner, id)
  end
  local identity = redis.call('HGET', record, 'identity')
  if identity and redis.call('GET', 'hive:flight:' .. identity) == id then
    redis.call('DEL', 'hive:flight:' .. identity)
  end
end
redis.call('EXPIRE', record, kept_s)
index(id, '')
local listed = redis.call('ZREM', downloads, id)
local there = listed + redis.call('ZREM', pending, id) + redis.call('ZREM', leases, id) + redis.call('SREM', PAUSED, id)
redis.call('SADD', unreadable, id)
redis.call('EXPIRE', unreadable, kept_s)
if there == 0 then return 0 end
count('unreadable')
return 1
