-- Who asked for a download: names in its field `owners`, one a line, and the index by owner; an empty line is somebody
-- without a key, who is in no index.
local function has_owner(lines, owner)
  return string.find('\n' .. lines .. '\n', '\n' .. owner .. '\n', 1, true) ~= nil
end
local function count_owners(lines)
  local _, breaks = string.gsub(lines, '\n', '\n')
  return breaks + 1
end
local function index_owner(id, owner, created_ms)
  if owner == '' then return end
  redis.call('ZADD', 'hive:owner:' .. owner, created_ms, id)
  redis.call('SADD', 'hive:owners', owner)
end
-- The servers hear of it, so that streams open and close with it: `told` is what the channel's name begins with.
local function set_owners(record, id, lines, told)
  redis.call('HSET', record, 'owners', lines)
  redis.call('PUBLISH', told .. '{' .. id .. '}', '')
end
-- Whether one more may have a share in a download, or has one.
local function has_room(lines, owner, most)
  return has_owner(lines, owner) or count_owners(lines) < tonumber(most)
end
-- Gives a share in a download to one more.
local function share(id, lines, owner, created_ms, told)
  if has_owner(lines, owner) then return end
  set_owners('hive:{' .. id .. '}', id, lines .. '\n' .. owner, told)
  index_owner(id, owner, created_ms)
end
