-- Puts some of the listed downloads into the index by state, from `cursor` on: those that a version of hive made or moved
-- which did not keep it. Those whose records are gone leave it.
-- -> the next cursor, '0' at the end of the list: then the index is whole.
local downloads, built = unpack(KEYS)
local cursor, step = unpack(ARGV)
--! include prelude

local found = redis.call('ZSCAN', downloads, cursor, 'COUNT', step)
for i = 1, #found[2], 2 do
  local id = found[2][i]
  if redis.call('TYPE', 'hive:{' .. id .. '}').ok == 'hash' then
    index(id, redis.call('HGET', 'hive:{' .. id .. '}', 'state'), found[2][i + 1])
  else
    index(id, '')
  end
end
if found[1] == '0' then redis.call('SET', built, '1') end
return found[1]
