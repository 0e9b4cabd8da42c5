-- Puts some of the listed downloads into the index by state and the lines of their owners, from `cursor` on: those that
-- a version of hive made or moved which did not keep them. Those whose records are gone leave them.
-- -> the next cursor, '0' at the end of the list: then the index is whole.
local downloads, built = unpack(KEYS)
local cursor, step = unpack(ARGV)
--! include prelude
--! include turns

local owners, new_in = {}, {}
local found = redis.call('ZSCAN', downloads, cursor, 'COUNT', step)
for i = 1, #found[2], 2 do
  local id = found[2][i]
  if redis.call('TYPE', 'hive:{' .. id .. '}').ok == 'hash' then
    local r = redis.call('HMGET', 'hive:{' .. id .. '}', 'state', 'line', 'owners', 'priority', 'place_ms')
    index(id, r[1], found[2][i + 1])
    local owner = whose_turn(r[2], r[3])
    owners[owner] = owner ~= '' or nil
    local rank = join_line(id, owner, r[4], r[5] or found[2][i + 1])
    if rank then new_in[rank] = true end
  else
    index(id, '')
  end
end
for rank in pairs(new_in) do
  for owner in pairs(owners) do spread_unless_alone(rank, owner) end
end
if found[1] == '0' then redis.call('SET', built, '1') end
return found[1]
