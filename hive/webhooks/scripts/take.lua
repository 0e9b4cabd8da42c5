-- Takes messages that are due, and writes the names of the settings' webhooks, which are the rest of ARGV.
-- `most_own`: messages of the settings' webhooks, which wait for nobody; `most`: those of requests, of which a host has
-- at most `per_host` under way and an owner `per_owner`, with those in `busy` (`h:<host>=n,o:<owner's mark>=n,`). Those
-- that are not to be sent now step aside for `aside_ms`, so that what is behind them is seen.
-- -> {{id/name, ticket, number of this try, sealed URL or '', body or '', host or '', 1 of the settings or 0}, ...}
local due, standing = unpack(KEYS)
local most, most_own, per_host, per_owner, busy, scanned, aside_ms, hidden_ms, kept_s, standing_ms, withdrawn_after_ms, rewritten_after_ms, dropped_after_ms, wait_max_ms = unpack(ARGV)
--! include prelude

local now = now_ms()
for i = 15, #ARGV do
  local until_ms = tonumber(redis.call('ZSCORE', standing, ARGV[i]) or '0')
  if until_ms < now + standing_ms - rewritten_after_ms then
    redis.call('ZADD', standing, int(now + standing_ms), ARGV[i])
  end
end
redis.call('ZREMRANGEBYSCORE', standing, '-inf', int(now + standing_ms - withdrawn_after_ms))
redis.call('ZREMRANGEBYSCORE', due, '-inf', int(now - dropped_after_ms))
-- What is due later than anything may be was put there by a clock that has been set back since.
for _, member in ipairs(redis.call('ZRANGEBYSCORE', due, int(now + wait_max_ms), '+inf', 'LIMIT', 0, 100)) do
  redis.call('ZADD', due, int(now), member)
end
for _, name in ipairs(redis.call('ZRANGEBYSCORE', standing, '(' .. int(now + standing_ms), '+inf')) do
  redis.call('ZADD', standing, int(now + standing_ms), name)
end

local under_way = {}
for what, n in string.gmatch(busy, '([^,]+)=(%d+),') do under_way[what] = tonumber(n) end
local function has_room(what, room) return (under_way[what] or 0) < tonumber(room) end
-- What somebody else has put there must not keep all others waiting.
local function is_readable(own, name)
  local kind = redis.call('TYPE', own).ok
  if kind == 'none' then return true end
  return kind == 'hash' and string.match(redis.call('HGET', own, 'n:' .. name) or '0', '^%d+$') ~= nil
end
local function count(what) under_way[what] = (under_way[what] or 0) + 1 end
local found = {}
local function take(member, own, name, host, of_settings)
  local ticket = int(now + hidden_ms)
  redis.call('ZADD', due, ticket, member)
  local number = redis.call('HINCRBY', own, 'n:' .. name, 1)
  redis.call('EXPIRE', own, kept_s)
  local kept = redis.call('HMGET', own, 't:' .. name, 'body')
  found[#found + 1] = {member, ticket, number, kept[1] or '', kept[2] or '', host, of_settings}
end

local left, left_own, looked, passed = tonumber(most), tonumber(most_own), 0, 0
while left + left_own > 0 and looked < tonumber(scanned) do
  local page = redis.call('ZRANGEBYSCORE', due, '-inf', int(now), 'LIMIT', passed, 100)
  if #page == 0 then break end
  looked = looked + #page
  for _, member in ipairs(page) do
    local id, name = string.match(member, '^([^/]+)/(.+)$')
    local own = 'hive:webhooks:{' .. (id or '') .. '}'
    if not id or string.find(member, '[^ -~]') or not is_readable(own, name) then
      redis.call('ZREM', due, member)
    elseif redis.call('ZSCORE', standing, name) then
      if left_own > 0 then
        take(member, own, name, '', 1)
        left_own = left_own - 1
      else
        passed = passed + 1
      end
    elseif left == 0 then
      passed = passed + 1
    else
      local host = redis.call('HGET', own, 'h:' .. name) or ''
      local mark = string.match(name, '%.[^.]*$') or ''
      local of_host, of_owner = 'h:' .. host, 'o:' .. mark
      if (host == '' or has_room(of_host, per_host)) and (mark == '' or has_room(of_owner, per_owner)) then
        take(member, own, name, host, 0)
        left = left - 1
        count(of_host)
        count(of_owner)
      else
        redis.call('ZADD', due, int(now + aside_ms), member)
      end
    end
  end
end
return found
