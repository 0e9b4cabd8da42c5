-- What several scripts need: time, the queue's order, counters, and the one way to tell of a change.
-- The names and numbers here are those of hive/wire (a test compares them).
local METRICS, PAUSED = 'hive:metrics', 'hive:paused'
local RANKS = {high = 0, normal = 1, low = 2}
local RANK_STEP = 10000000000000
local WAIT_CLASSES_S = {1, 5, 30, 120, 600, 3600}

local STATES = {'queued', 'running', 'paused', 'complete', 'failed', 'cancelled'}

local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end
local function int(n) return string.format('%.0f', n) end
-- A counter that is no number any more is no reason to stop.
local function count(name, by) redis.pcall('HINCRBY', METRICS, name, int(by or 1)) end
-- The place in the queue: whoever was there first comes first, also after an attempt that failed.
local function place(priority, created_ms) return int((RANKS[priority] or 1) * RANK_STEP + created_ms) end
-- Hash: bytes that each owner's downloads received on the day of this moment, by UTC.
local function quota_key(ms) return 'hive:quota:' .. int(math.floor(ms / 86400000)) end
-- Bytes of this attempt so far, added to those of the record and the fleet; what was counted already is not again.
local function count_bytes(record, name, by_attempt, counted)
  local more = tonumber(by_attempt) - tonumber(counted or '0')
  if more <= 0 then return end
  redis.call('HSET', record, name, by_attempt)
  redis.call('HINCRBY', record, 'bytes_' .. name, int(more))
  count('bytes_' .. name, more)
  if name ~= 'received' then return end
  local owner = string.match(redis.call('HGET', record, 'owners') or '', '^[^\n]+')
  if not owner then return end
  local quota = quota_key(now_ms())
  redis.pcall('HINCRBY', quota, owner, int(more))
  redis.call('EXPIRE', quota, 172800)
end
local function count_active(record, claimed_ms)
  redis.call('HINCRBY', record, 'active_ms', int(math.max(now_ms() - tonumber(claimed_ms or '0'), 0)))
end
-- The index by state: each state's downloads, by the time they were made.
local function index(id, state, created_ms)
  for _, each in ipairs(STATES) do
    if each == state then
      redis.call('ZADD', 'hive:state:' .. each, created_ms or '0', id)
    else
      redis.call('ZREM', 'hive:state:' .. each, id)
    end
  end
end
local function next_fence(record)
  return int(math.max(now_ms(), tonumber(redis.call('HGET', record, 'fence') or '0') + 1))
end
local function say(record, channel, fence, seq, terminal, event)
  local now = int(now_ms())
  redis.call('HSET', record, 'fence', fence, 'seq', seq, 'terminal', terminal, 'event', event, 'updated_ms', now)
  redis.call('PUBLISH', channel, fence .. '-' .. seq .. ' ' .. terminal .. ' ' .. event)
end
