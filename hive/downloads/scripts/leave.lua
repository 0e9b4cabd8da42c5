-- Takes one owner's share out of a download that others have a share in too, and the webhooks that they brought (`mark`
-- ends their names). The last one ends it: then nothing is taken, but a word is left, so that nobody joins it any more.
-- `told`: what the channel of its owners begins with.
-- -> 'left', 'last', or 'gone' when it has ended, or they have no share in it.
local record, webhooks = unpack(KEYS)
local id, owner, mark, told = unpack(ARGV)
--! include prelude
--! include owners
--! include turns

local r = redis.call('HMGET', record, 'terminal', 'owners', 'line', 'priority', 'created_ms')
local lines = r[2] or ''
if r[1] ~= '0' or not has_owner(lines, owner) then return 'gone' end
if lines == owner then
  redis.call('HSET', record, 'control', 'cancel')
  return 'last'
end
local others = {}
for each in string.gmatch(lines .. '\n', '([^\n]*)\n') do
  if each ~= owner then others[#others + 1] = each end
end
set_owners(record, id, table.concat(others, '\n'), told)
if whose_turn(r[3], lines) == owner then
  local waits = redis.call('ZSCORE', PENDING, id)
  if waits then step_out(id, owner) end
  redis.call('HSET', record, 'line', others[1])
  redis.call('HDEL', record, 'place_ms')
  if waits then enter(id, others[1], r[4], r[5]) end
end
redis.call('ZREM', 'hive:owner:' .. owner, id)
for _, field in ipairs(redis.call('HKEYS', webhooks)) do
  if string.sub(field, -#mark) == mark then redis.call('HDEL', webhooks, field) end
end
return 'left'
