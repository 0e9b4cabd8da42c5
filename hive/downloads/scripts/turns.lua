-- Turns among owners: start-time fair queueing on the one sorted set that the queue is.
--
-- Problem: by age alone, somebody who asks for one model waits behind somebody else's hundred. The easy way, a queue for
-- each owner and a choice at the claim, makes two truths that part when a version without the second one is at work,
-- and then nobody can say how many are before a download. So `hive:pending` stays the only truth, the lowest score
-- first, and a score is a virtual time: the rank of the priority, and in it the round in which the download's turn
-- comes. One owner's downloads are TURN_MS apart, a round. The round that is on is that of the latest claim; somebody
-- who has had no turn in it comes last in it, and else in the next one: so whoever holds all workers is behind whoever
-- holds none, nobody saves up turns while idle, and what waits is passed by at most once a round and owner. Where only
-- one owner waits, and where nobody has a key, a score is the age, as ever; when a second one comes the first one's are
-- spread once.
--
-- A download counts for one owner: who asked first, or who joined and whose turn comes earlier (field `line`). Its field
-- `turn` is the score at which it was claimed: what a worker gives back has had its turn, and keeps its place.
--
-- Somebody may have moved it (move.lua): then `place_ms` is its age among its owner's.
--
-- What is here beside the queue may be lost or stale, which costs no more than the order: `hive:line:<owner>`, what
-- waits of one owner by priority and age, and `hive:turns:<rank>`, who had a turn in the round that is on, and '', the
-- round itself.
local PENDING, LEASES = 'hive:pending', 'hive:leases'
-- A round, in the unit of the scores: small, since a version without turns goes by the clock; and how far apart in it
-- those stand who are new in it.
local TURN_MS, GAP_MS = 10000, 64
-- How many who hold a worker are looked at when somebody asks and nothing waits.
local MAX_HOLDERS = 64
-- Seconds after which nobody remembers: turns, and lines to which nothing was added.
local TURNS_KEPT_S, LINES_KEPT_S = 86400, 604800

local function line_of(owner) return 'hive:line:' .. owner end
local function turns_of(rank) return 'hive:turns:' .. int(rank) end
local function span(rank) return int(rank * RANK_STEP), '(' .. int((rank + 1) * RANK_STEP) end
local function score_of(id) return tonumber(redis.call('ZSCORE', PENDING, id) or '') end
local function put(id, score) redis.call('ZADD', PENDING, int(score), id) end

-- For whom a download counts, by its fields `line` and `owners`; '' takes no turns.
local function whose_turn(line, owners) return line or string.match(owners or '', '^[^\n]*') end

-- How many wait with this rank, and how many of them in this line.
local function count_waiting(rank, owner)
  local low, high = span(rank)
  return redis.call('ZCOUNT', PENDING, low, high), redis.call('ZCOUNT', line_of(owner), low, high)
end
local function had_turn(id, score, round)
  return score <= round and redis.call('HGET', 'hive:{' .. id .. '}', 'turn') == int(score)
end
local function begin_round(rank, round)
  redis.call('ZADD', turns_of(rank), 'GT', int(round), '')
  redis.call('EXPIRE', turns_of(rank), TURNS_KEPT_S)
end
-- Where nothing waits a new round begins: whoever holds a worker has had a turn in it.
local function open_round(rank, round)
  begin_round(rank, round)
  for _, id in ipairs(redis.call('ZRANGE', LEASES, 0, MAX_HOLDERS - 1)) do
    local r = redis.call('HMGET', 'hive:{' .. id .. '}', 'line', 'owners')
    local holder = whose_turn(r[1], r[2])
    if holder ~= '' then redis.call('ZADD', turns_of(rank), 'GT', int(round), holder) end
  end
end
-- The round that is on, as the latest score in it. What was claimed without turns moves it on too.
local function round_of(rank)
  local low, high = span(rank)
  local round = tonumber(redis.call('ZSCORE', turns_of(rank), '') or '0')
  local first = redis.call('ZRANGEBYSCORE', PENDING, low, high, 'WITHSCORES', 'LIMIT', 0, 1)
  if first[1] and tonumber(first[2]) - TURN_MS > round then
    round = tonumber(first[2]) - TURN_MS
    begin_round(rank, round)
  end
  return round, first[1]
end
-- The score of this owner's turn in the round that is on, or nil.
local function turn_in(rank, owner, round)
  local score = tonumber(redis.call('ZSCORE', turns_of(rank), owner) or '0')
  if score > round - TURN_MS then return score end
end
-- Spreads what waits of one owner: a round for each.
local function spread(rank, owner)
  local low, high = span(rank)
  local round = round_of(rank)
  local last = turn_in(rank, owner, round)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', line_of(owner), low, high)) do
    local score = score_of(id)
    if not score then
      redis.call('ZREM', line_of(owner), id)
    elseif not had_turn(id, score, round) then
      last = last and last + TURN_MS or math.max(score, round + 1)
      if score ~= last then put(id, last) end
    end
  end
end
-- Of several: those who were alone until now are spread. -> the round that is on.
local function make_turns(rank, owner)
  local round, first = round_of(rank)
  if not first then return round end
  local r = redis.call('HMGET', 'hive:{' .. first .. '}', 'line', 'owners')
  local other = whose_turn(r[1], r[2])
  if other == '' or other == owner then return round end
  local waiting, theirs = count_waiting(rank, other)
  if waiting ~= theirs then return round end
  spread(rank, other)
  return (round_of(rank))
end
-- The last of this owner's that is not younger than `age`, as its score; nil where there is none.
local function score_before(rank, owner, age)
  local low = span(rank)
  while true do
    local id = redis.call('ZREVRANGEBYSCORE', line_of(owner), age, low, 'LIMIT', 0, 1)[1]
    if not id then return nil end
    local score = score_of(id)
    if score then return score end
    redis.call('ZREM', line_of(owner), id)
  end
end
-- The score of one more of this owner's, behind the one with the score `before`, if any.
local function next_turn(rank, owner, round, before)
  local had, score = turn_in(rank, owner, round), nil
  if had then
    score = had + TURN_MS
  else
    local last = redis.call('ZREVRANGEBYSCORE', PENDING, '(' .. int(round + TURN_MS), int(round), 'WITHSCORES',
      'LIMIT', 0, 1)[2]
    last = tonumber(last or round)
    local gap = math.max(math.min(math.floor((round + TURN_MS - last) / 2), GAP_MS), 1)
    score = math.min(last + gap, round + TURN_MS - 1)
  end
  return before and math.max(score, before + TURN_MS) or score
end

-- Puts a download into the queue, by its age among its owner's.
local function enter(id, owner, priority, asked_ms)
  local age, rank = place(priority, asked_ms), RANKS[priority] or 1
  if owner == '' then return redis.call('ZADD', PENDING, age, id) end
  local _, high = span(rank)
  local line = line_of(owner)
  -- A move may have given this age to another one.
  redis.call('ZREM', line, id)
  while redis.call('ZCOUNT', line, age, age) > 0 do age = int(age + 1) end
  local waiting, own = count_waiting(rank, owner)
  if waiting == 0 then open_round(rank, tonumber(age) - 1) end
  local before = score_before(rank, owner, age)
  local after = redis.call('ZRANGEBYSCORE', line, '(' .. age, high)
  redis.call('ZADD', line, age, id)
  redis.call('EXPIRE', line, LINES_KEPT_S)
  local follows = after[1] and score_of(after[1])
  if (waiting == 0 or waiting == own) and (not before or before <= tonumber(age))
    and (not after[1] or (follows and follows >= tonumber(age))) then
    return put(id, age)
  end
  -- Where some of this owner's wait already, those of the others stand apart.
  local round, score = own == 0 and make_turns(rank, owner) or round_of(rank), nil
  for _, next_id in ipairs(after) do
    local next_score = score_of(next_id)
    if next_score and not had_turn(next_id, next_score, round) then
      -- The younger ones move back by a round, as far as they stand close.
      if not score then
        score = next_score
        put(id, score)
      end
      if next_score >= score + TURN_MS then return end
      score = score + TURN_MS
      put(next_id, score)
    end
  end
  if not score then put(id, next_turn(rank, owner, round, before)) end
end
-- Takes a download out of the queue that no worker has claimed: the owner's younger ones move up.
local function step_out(id, owner)
  local score = owner ~= '' and score_of(id)
  if not score then return redis.call('ZREM', PENDING, id) end
  local line = line_of(owner)
  local age = redis.call('ZSCORE', line, id)
  local rank = math.floor(score / RANK_STEP)
  local round, _, high = round_of(rank), span(rank)
  local waiting, own = count_waiting(rank, owner)
  redis.call('ZREM', PENDING, id)
  redis.call('ZREM', line, id)
  if not age or waiting == own or had_turn(id, score, round) then return end
  for _, next_id in ipairs(redis.call('ZRANGEBYSCORE', line, age, high)) do
    local next_score = score_of(next_id)
    if next_score and next_score > score then
      put(next_id, score)
      score = next_score
    end
  end
end
-- The same for a claim: its turn has come.
local function take_turn(record, id, owner)
  local score = owner ~= '' and score_of(id)
  redis.call('ZREM', PENDING, id)
  if not score then return end
  local rank = math.floor(score / RANK_STEP)
  local turns = turns_of(rank)
  begin_round(rank, score)
  local round = tonumber(redis.call('ZSCORE', turns, ''))
  if not had_turn(id, score, round) then redis.call('ZADD', turns, 'GT', int(math.max(score, round)), owner) end
  redis.call('ZREMRANGEBYSCORE', turns, '-inf', int(round - TURN_MS))
  redis.call('ZREM', line_of(owner), id)
  redis.call('HSET', record, 'turn', int(score))
end
-- Puts back what a worker held: where it was, if it has had its turn with this priority, and else by its age.
local function come_back(id, owner, turn, priority, created_ms)
  local score = tonumber(turn or '')
  if owner == '' or not score or math.floor(score / RANK_STEP) ~= (RANKS[priority] or 1) then
    return enter(id, owner, priority, created_ms)
  end
  put(id, score)
  redis.call('ZADD', line_of(owner), place(priority, created_ms), id)
end
-- One who joins what waits: it counts for them from now on if their turn comes earlier.
local function hurry(id, line, owners, owner, priority)
  local now_for, rank = whose_turn(line, owners), RANKS[priority] or 1
  if owner == '' or owner == now_for or not score_of(id) or count_waiting(rank, owner) == 1 then return end
  local round = make_turns(rank, owner)
  local before = score_before(rank, owner, place(priority, now_ms()))
  if next_turn(rank, owner, round, before) >= score_of(id) then return end
  step_out(id, now_for)
  redis.call('HSET', 'hive:{' .. id .. '}', 'line', owner)
  redis.call('HDEL', 'hive:{' .. id .. '}', 'place_ms')
  enter(id, owner, priority, now_ms())
end
-- What a version without turns has queued or taken enters its owner's line, or leaves it. -> the rank that it is new in.
local function join_line(id, owner, priority, created_ms)
  if owner == '' then return end
  if not score_of(id) then return redis.call('ZREM', line_of(owner), id) and nil end
  redis.call('EXPIRE', line_of(owner), LINES_KEPT_S)
  if redis.call('ZADD', line_of(owner), 'NX', place(priority, created_ms), id) == 1 then return RANKS[priority] or 1 end
end
local function spread_unless_alone(rank, owner)
  local waiting, own = count_waiting(rank, owner)
  if own > 0 and waiting ~= own then spread(rank, owner) end
end
