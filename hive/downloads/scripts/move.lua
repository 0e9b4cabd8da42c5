-- Moves what waits to before or behind another that waits.
--
-- Places of its owner's downloads between the two are dealt out anew, each score and age as it was: so nobody else's turn
-- changes, and what comes later still comes behind. A place between two ages would run out after some moves.
-- `side`: `before` or `behind`; the moved one takes the other's priority. `fence` as read; `event` has the priority.
-- -> 1; 0 when it has ended or changed hands; -1 when one of the two does not wait.
local record, channel, pending = unpack(KEYS)
local id, fence, other, side, event = unpack(ARGV)
--! include prelude
--! include turns

-- Those of this owner with scores from `low` to `high`, in the order of the queue: {id, score, age}.
local function between(owner, rank, low, high)
  local found = {}
  if owner ~= '' then
    local from, to = span(rank)
    local line = redis.call('ZRANGEBYSCORE', line_of(owner), from, to, 'WITHSCORES')
    local round = round_of(rank)
    for i = 1, #line, 2 do
      local score = score_of(line[i])
      if score and score >= low and score <= high and not had_turn(line[i], score, round) then
        found[#found + 1] = {line[i], score, tonumber(line[i + 1])}
      end
    end
    table.sort(found, function(a, b) return a[2] < b[2] or (a[2] == b[2] and a[1] < b[1]) end)
    return found
  end
  local line = redis.call('ZRANGEBYSCORE', PENDING, int(low), int(high), 'WITHSCORES')
  for i = 1, #line, 2 do
    local r = redis.call('HMGET', 'hive:{' .. line[i] .. '}', 'line', 'owners')
    local score = tonumber(line[i + 1])
    if whose_turn(r[1], r[2]) == '' then found[#found + 1] = {line[i], score, score} end
  end
  return found
end
-- The numbers in this place of each, ascending, no two the same.
local function slots(found, at)
  local numbers = {}
  for i, each in ipairs(found) do numbers[i] = each[at] end
  table.sort(numbers)
  for i = 2, #numbers do numbers[i] = math.max(numbers[i], numbers[i - 1] + 1) end
  return numbers
end

local r = redis.call('HMGET', record, 'terminal', 'created_ms', 'fence', 'priority', 'line', 'owners', 'place_ms')
if r[1] ~= '0' or r[3] ~= fence then return 0 end
local goal = score_of(other)
if id == other or not goal or not score_of(id) then return -1 end
local owner, rank = whose_turn(r[5], r[6]), math.floor(goal / RANK_STEP)
local priority = redis.call('HGET', 'hive:{' .. other .. '}', 'priority')
local round = owner ~= '' and round_of(rank)
if r[4] ~= priority or (round and had_turn(id, score_of(id), round)) then
  step_out(id, owner)
  redis.call('HDEL', record, 'turn')
  redis.call('HSET', record, 'priority', priority)
  enter(id, owner, priority, r[7] or r[2])
  goal = score_of(other)
end
local score = score_of(id)
local found = between(owner, rank, math.min(score, goal), math.max(score, goal))
local scores, ages = slots(found, 2), slots(found, 3)
local order, moved, at = {}, nil, nil
for _, each in ipairs(found) do
  if each[1] == id then moved = each else order[#order + 1] = each end
end
if moved then
  for i, each in ipairs(order) do
    if each[1] == other then at = side == 'before' and i or i + 1 elseif not at and each[2] > goal then at = i end
  end
  table.insert(order, at or #order + 1, moved)
  for i, each in ipairs(order) do
    local age = owner == '' and scores[i] or ages[i]
    if each[2] ~= scores[i] or each[3] ~= age then
      put(each[1], scores[i])
      if owner ~= '' then redis.call('ZADD', line_of(owner), int(age), each[1]) end
      redis.call('HSET', 'hive:{' .. each[1] .. '}', 'place_ms', int(age - rank * RANK_STEP))
    end
  end
end
say(record, channel, next_fence(record), '1', '0', event)
return 1
