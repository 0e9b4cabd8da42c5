"""The Lua scripts that change a download's record: each changes it, and publishes the change, in one step.

Problem: between a client's read and its subscription, between a worker's write and its publish, a process may die;
and redis-py sends a command again when its reply was lost. Two commands in a row (HSET, then PUBLISH) lose the
second; MULTI cannot look before it writes. So every change is one script that (1) checks, (2) writes, (3) publishes
the same, and is safe to repeat.

The order is made by the version `(fence, seq)`. Whoever takes hold of a download (claim, release, an end from
outside) takes a new fence, `max(now in ms, stored + 1)`, so that it also grows over a Redis that lost its data; `seq`
counts up inside. Hence a caller that shows the fence it has read has proven that nothing changed hands since, and a
worker whose fence is not the stored one is a zombie and is refused.

Time is Redis' own. State machine: queued -> running -> complete | failed | cancelled; running -> queued, and running,
queued -> paused -> queued (release); see docs/architecture.md.

What all processes count together (docs/metrics.md) is counted here too: a count made beside the change would be lost
with the process that was to make it, or made twice when a call is repeated.
"""

from __future__ import annotations

from typing import Final

from hive.wire import keys
from hive.wire.jobs import RANK_STEP, RANKS

#: Upper ends of the classes of the time that downloads wait for a worker, in seconds.
QUEUE_WAIT_CLASSES_S: Final = (1, 5, 30, 120, 600, 3600)

_PRELUDE: Final = (
    f"""
local METRICS, PAUSED = '{keys.METRICS}', '{keys.PAUSED}'
local RANKS = {{{", ".join(f"{name} = {rank}" for name, rank in RANKS.items())}}}
local RANK_STEP = {RANK_STEP}
local WAIT_CLASSES_S = {{{", ".join(map(str, QUEUE_WAIT_CLASSES_S))}}}
"""
    + """
local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end
local function int(n) return string.format('%.0f', n) end
local function count(name, by) redis.call('HINCRBY', METRICS, name, int(by or 1)) end
-- The place in the queue: whoever was there first comes first, also after an attempt that failed.
local function place(priority, created_ms) return int((RANKS[priority] or 1) * RANK_STEP + created_ms) end
-- Bytes of this attempt so far, added to those of the record and the fleet; what was counted already is not again.
local function count_bytes(record, name, by_attempt, counted)
  local more = tonumber(by_attempt) - tonumber(counted or '0')
  if more <= 0 then return end
  redis.call('HSET', record, name, by_attempt)
  redis.call('HINCRBY', record, 'bytes_' .. name, int(more))
  count('bytes_' .. name, more)
end
local function count_active(record, claimed_ms)
  redis.call('HINCRBY', record, 'active_ms', int(math.max(now_ms() - tonumber(claimed_ms or '0'), 0)))
end
local function next_fence(record)
  return int(math.max(now_ms(), tonumber(redis.call('HGET', record, 'fence') or '0') + 1))
end
local function say(record, channel, fence, seq, terminal, event)
  local now = int(now_ms())
  redis.call('HSET', record, 'fence', fence, 'seq', seq, 'terminal', terminal, 'event', event, 'updated_ms', now)
  redis.call('PUBLISH', channel, fence .. '-' .. seq .. ' ' .. terminal .. ' ' .. event)
end
"""
)

#: A new download, or the one under way for the same identity.
#: KEYS: record, channel, flight, downloads, pending, secret.
#: ARGV: id, terminal (0|1), event, ttl_s of ended records, most queued, sealed credentials or '', their ttl_s,
#:   local_path or '', priority, then the record's fields as name, value, ...
#: -> {id, 'created' | 'joined' | 'known' | 'full'}; `known`: this very end is recorded already.
CREATE: Final = (
    _PRELUDE
    + """
if redis.call('EXISTS', KEYS[1]) == 1 then return {ARGV[1], 'created'} end
local under_way = redis.call('GET', KEYS[3])
local live = false
if under_way then
  local found = redis.call('HMGET', 'hive:{' .. under_way .. '}', 'terminal', 'local_path')
  live = found[1] == '0'
  if live and ARGV[2] == '0' then
    local joined = 'hive:{' .. under_way .. '}'
    local r = redis.call('HMGET', joined, 'priority', 'created_ms')
    if RANKS[ARGV[9]] < (RANKS[r[1]] or 1) then
      redis.call('HSET', joined, 'priority', ARGV[9])
      redis.call('ZADD', KEYS[5], 'XX', place(ARGV[9], r[2]), under_way)
    end
    count('joined')
    return {under_way, 'joined'}
  end
  if found[1] == '1' and ARGV[2] == '1' and found[2] == ARGV[8] then return {under_way, 'known'} end
end
if ARGV[2] == '0' and redis.call('ZCARD', KEYS[5]) >= tonumber(ARGV[5]) then return {'', 'full'} end
for i = 10, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
local now = now_ms()
redis.call('HSET', KEYS[1], 'id', ARGV[1], 'created_ms', int(now), 'queued_ms', int(now), 'priority', ARGV[9])
redis.call('ZADD', KEYS[4], int(now), ARGV[1])
if ARGV[2] == '1' then
  redis.call('HSET', KEYS[1], 'ended_ms', int(now), 'local_path', ARGV[8])
  redis.call('EXPIRE', KEYS[1], ARGV[4])
  if not live then redis.call('SET', KEYS[3], ARGV[1], 'EX', ARGV[4]) end
else
  redis.call('SET', KEYS[3], ARGV[1])
  redis.call('ZADD', KEYS[5], place(ARGV[9], now), ARGV[1])
  count('created')
  if ARGV[6] ~= '' then redis.call('SET', KEYS[6], ARGV[6], 'EX', ARGV[7]) end
end
say(KEYS[1], KEYS[2], int(now), '1', ARGV[2], ARGV[3])
return {ARGV[1], 'created'}
"""
)

#: KEYS: record, channel, pending, leases, running limit.
#: ARGV: id, attempt, owner, lease_ms, worker, event, running limit by the settings (0: none).
#: -> the fence, '' when it is not queued (any more), or queued for another attempt, 'full' when as many run as may.
CLAIM: Final = (
    _PRELUDE
    + """
local r = redis.call('HMGET', KEYS[1], 'state', 'attempt', 'owner', 'fence', 'bytes_done', 'queued_ms')
if r[1] == 'running' and r[3] == ARGV[3] then return r[4] end
if r[1] ~= 'queued' then redis.call('ZREM', KEYS[3], ARGV[1]) end
if r[1] ~= 'queued' or r[2] ~= ARGV[2] then return '' end
local most = tonumber(redis.call('GET', KEYS[5]) or ARGV[7])
if most > 0 and redis.call('ZCARD', KEYS[4]) >= most then return 'full' end
local fence = next_fence(KEYS[1])
local now = now_ms()
redis.call('HSET', KEYS[1], 'state', 'running', 'status', 'resolving', 'owner', ARGV[3], 'worker', ARGV[5])
redis.call('HSET', KEYS[1], 'bytes_at_claim', r[5] or '0', 'claimed_ms', int(now), 'received', '0', 'refetched', '0')
redis.call('HSETNX', KEYS[1], 'started_ms', int(now))
local waited_ms = math.max(now - tonumber(r[6] or now), 0)
count('claims')
count('queue_wait_ms', waited_ms)
for _, class_s in ipairs(WAIT_CLASSES_S) do
  if waited_ms <= class_s * 1000 then count('queue_wait_le_' .. class_s) end
end
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('ZADD', KEYS[4], int(now + ARGV[4]), ARGV[1])
say(KEYS[1], KEYS[2], fence, '1', '0', ARGV[6])
return fence
"""
)

#: KEYS: record, channel, leases.
#: ARGV: id, fence, seq, event, lease_ms, status, bytes done, bytes received and fetched again in this attempt, bytes
#:   found on disk or ''.
#: -> {1, control} or {0, ''} when fenced out.
PUBLISH: Final = (
    _PRELUDE
    + """
local r = redis.call('HMGET', KEYS[1], 'state', 'fence', 'seq', 'control', 'received', 'refetched')
if r[1] ~= 'running' or r[2] ~= ARGV[2] then return {0, ''} end
redis.call('ZADD', KEYS[3], int(now_ms() + ARGV[5]), ARGV[1])
if tonumber(ARGV[3]) > tonumber(r[3]) then
  redis.call('HSET', KEYS[1], 'status', ARGV[6], 'bytes_done', ARGV[7])
  count_bytes(KEYS[1], 'received', ARGV[8], r[5])
  count_bytes(KEYS[1], 'refetched', ARGV[9], r[6])
  if ARGV[10] ~= '' then redis.call('HSETNX', KEYS[1], 'bytes_found', ARGV[10]) end
  say(KEYS[1], KEYS[2], ARGV[2], ARGV[3], '0', ARGV[4])
end
return {1, r[4] or ''}
"""
)

#: KEYS: record, leases. ARGV: id, fence, lease_ms. -> {1, control} or {0, ''} when fenced out.
RENEW: Final = (
    _PRELUDE
    + """
local r = redis.call('HMGET', KEYS[1], 'state', 'fence', 'control')
if r[1] ~= 'running' or r[2] ~= ARGV[2] then return {0, ''} end
redis.call('ZADD', KEYS[2], int(now_ms() + ARGV[3]), ARGV[1])
return {1, r[3] or ''}
"""
)

#: Takes a download out of a worker's hands or the queue: back to the queue as its next attempt, or aside (`paused`);
#: and a paused one back to the queue. KEYS: record, channel, pending, leases.
#: ARGV: id, fence as read, next attempt, 1 when an attempt without a new byte counts as a stall, 1 when only an expired
#:   lease may go, event, `queued` or `paused`, bytes received and fetched again in this attempt.
#: -> 1 released, 0 refused.
RELEASE: Final = (
    _PRELUDE
    + """
local r = redis.call('HMGET', KEYS[1], 'state', 'fence', 'attempt', 'bytes_done', 'bytes_at_claim', 'stalls', 'control',
  'claimed_ms', 'priority', 'created_ms', 'received', 'refetched')
if r[1] == ARGV[7] and r[3] == ARGV[3] then return 1 end
if (r[1] ~= 'running' and r[1] ~= 'queued' and r[1] ~= 'paused') or r[2] ~= ARGV[2] then return 0 end
if ARGV[5] == '1' then
  local until_ms = redis.call('ZSCORE', KEYS[4], ARGV[1])
  if until_ms and tonumber(until_ms) > now_ms() then return 0 end
end
local stalls = tonumber(r[6] or '0')
if tonumber(r[4] or '0') > tonumber(r[5] or '0') then stalls = 0 elseif ARGV[4] == '1' then stalls = stalls + 1 end
redis.call('HSET', KEYS[1], 'state', ARGV[7], 'status', ARGV[7], 'attempt', ARGV[3], 'stalls', stalls)
redis.call('HSET', KEYS[1], 'owner', '', 'worker', '')
redis.call('ZREM', KEYS[4], ARGV[1])
if r[1] == 'running' then
  count_active(KEYS[1], r[8])
  count_bytes(KEYS[1], 'received', ARGV[8], r[11])
  count_bytes(KEYS[1], 'refetched', ARGV[9], r[12])
  count((ARGV[4] == '1' and 'recovered') or (r[7] == 'yield' and 'preempted') or 'released')
end
if ARGV[7] == 'queued' then
  if r[7] == 'yield' then redis.call('HSET', KEYS[1], 'control', '') end
  redis.call('HSET', KEYS[1], 'queued_ms', int(now_ms()))
  redis.call('ZADD', KEYS[3], place(r[9], r[10]), ARGV[1])
  redis.call('SREM', PAUSED, ARGV[1])
else
  redis.call('HSET', KEYS[1], 'control', '')
  redis.call('ZREM', KEYS[3], ARGV[1])
  redis.call('SADD', PAUSED, ARGV[1])
end
say(KEYS[1], KEYS[2], next_fence(KEYS[1]), '1', '0', ARGV[6])
return 1
"""
)

#: Puts what is to be told of an end on the list of webhooks to send (see Outbox), in one step with the end: those
#: that its requests brought, and those of the settings, which the servers keep written in Redis.
_NOTIFY: Final = f"""
local function notify(id)
  local own, now = 'hive:webhooks:{{' .. id .. '}}', int(now_ms())
  local function due(name) redis.call('ZADD', '{keys.WEBHOOKS_DUE}', now, id .. '/' .. name) end
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', '{keys.WEBHOOKS_STANDING}', now, '+inf')) do due(name) end
  for _, field in ipairs(redis.call('HKEYS', own)) do
    if string.sub(field, 1, 2) == 't:' then due(string.sub(field, 3)) end
  end
end
"""

#: The one end. KEYS: record, channel, pending, leases, flight, secret.
#: ARGV: id, fence as read or held, seq or '' (from outside: takes a new fence), state, event, ttl_s, local_path, 1
#:   when only an expired lease may go, the code of the error or '', bytes received and fetched again in this attempt,
#:   bytes in all or '' where they are not known or not all there.
#: -> 1 ended (or was ended by this very call), 0 refused.
FINISH: Final = (
    _PRELUDE
    + _NOTIFY
    + """
local r = redis.call('HMGET', KEYS[1], 'terminal', 'fence', 'seq', 'event', 'state', 'claimed_ms', 'received',
  'refetched')
if r[1] == '1' and r[4] == ARGV[5] then return 1 end
if r[1] ~= '0' or r[2] ~= ARGV[2] then return 0 end
if ARGV[8] == '1' then
  local until_ms = redis.call('ZSCORE', KEYS[4], ARGV[1])
  if until_ms and tonumber(until_ms) > now_ms() then return 0 end
end
local fence, seq = ARGV[2], ARGV[3]
if seq == '' then fence, seq = next_fence(KEYS[1]), '1' end
redis.call('HSET', KEYS[1], 'state', ARGV[4], 'status', ARGV[4], 'ended_ms', int(now_ms()), 'local_path', ARGV[7])
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('ZREM', KEYS[4], ARGV[1])
redis.call('SREM', PAUSED, ARGV[1])
if r[5] == 'running' then count_active(KEYS[1], r[6]) end
count_bytes(KEYS[1], 'received', ARGV[10], r[7])
count_bytes(KEYS[1], 'refetched', ARGV[11], r[8])
if ARGV[12] ~= '' then
  -- What a killed worker had received and not kept shows only now: more came than was missing.
  local b = redis.call('HMGET', KEYS[1], 'bytes_received', 'bytes_found', 'bytes_refetched')
  local again = tonumber(b[1] or '0') - (tonumber(ARGV[12]) - tonumber(b[2] or '0'))
  count_bytes(KEYS[1], 'refetched', int(tonumber(ARGV[11]) + math.max(again - tonumber(b[3] or '0'), 0)), ARGV[11])
end
count('ended_' .. ARGV[4])
if ARGV[4] == 'failed' then count('fault_' .. ARGV[9]) end
redis.call('DEL', KEYS[6])
redis.call('EXPIRE', KEYS[1], ARGV[6])
if redis.call('GET', KEYS[5]) == ARGV[1] then redis.call('EXPIRE', KEYS[5], ARGV[6]) end
notify(ARGV[1])
say(KEYS[1], KEYS[2], fence, seq, '1', ARGV[5])
return 1
"""
)

#: Leaves a word for the worker that runs it, read with its next publish or renewal; `yield` only where nobody left one
#: before. KEYS: record. ARGV: word, fence as read. -> 1 or 0.
CONTROL: Final = """
local r = redis.call('HMGET', KEYS[1], 'state', 'fence', 'control')
if r[1] ~= 'running' or r[2] ~= ARGV[2] then return 0 end
if ARGV[1] == 'yield' and r[3] and r[3] ~= '' and r[3] ~= 'yield' then return 0 end
redis.call('HSET', KEYS[1], 'control', ARGV[1])
return 1
"""

#: Changes the priority, and the place in the queue with it. Of one that runs nobody is told: its events are its
#: worker's. KEYS: record, channel, pending. ARGV: id, fence as read, priority, event.
#: -> 1, or 0 when it has ended or changed hands.
PRIORITY: Final = (
    _PRELUDE
    + """
local r = redis.call('HMGET', KEYS[1], 'terminal', 'created_ms', 'fence', 'state', 'event', 'priority')
if r[1] ~= '0' then return 0 end
if r[5] == ARGV[4] and r[6] == ARGV[3] then return 1 end
if r[3] ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'priority', ARGV[3])
redis.call('ZADD', KEYS[3], 'XX', place(ARGV[3], r[2]), ARGV[1])
if r[4] ~= 'running' then say(KEYS[1], KEYS[2], next_fence(KEYS[1]), '1', '0', ARGV[4]) end
return 1
"""
)

#: Makes the record of a download again that Redis has lost (hive/downloads/restore.py). KEYS: record, channel, flight,
#:   downloads, pending, leases.
#: ARGV: id, state (`queued`, `running`, `paused`), fence of its last worker or 0, created_ms, lease_ms, priority,
#:   event, then the record's fields as name, value, ...
#: A running one keeps its fence, so that its worker, if it lives, goes on as if nothing had been; the others take a new
#: one. -> 1 made, 0 there was one.
RESTORE: Final = (
    _PRELUDE
    + """
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
for i = 8, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('HSET', KEYS[1], 'id', ARGV[1], 'state', ARGV[2], 'created_ms', ARGV[4], 'priority', ARGV[6])
redis.call('ZADD', KEYS[4], ARGV[4], ARGV[1])
local under_way = redis.call('GET', KEYS[3])
if not under_way or redis.call('HGET', 'hive:{' .. under_way .. '}', 'terminal') ~= '0' then
  redis.call('SET', KEYS[3], ARGV[1])
end
local now, fence = now_ms(), ARGV[3]
if ARGV[2] == 'running' then
  -- Nobody is told: all who listen have heard more than this from the worker.
  redis.call('HSET', KEYS[1], 'claimed_ms', int(now), 'started_ms', int(now), 'updated_ms', int(now))
  redis.call('HSET', KEYS[1], 'fence', fence, 'seq', '1', 'terminal', '0', 'event', ARGV[7])
  redis.call('ZADD', KEYS[6], int(now + ARGV[5]), ARGV[1])
  return 1
end
if ARGV[2] == 'queued' then
  redis.call('HSET', KEYS[1], 'queued_ms', int(now))
  redis.call('ZADD', KEYS[5], place(ARGV[6], ARGV[4]), ARGV[1])
else
  redis.call('SADD', PAUSED, ARGV[1])
end
say(KEYS[1], KEYS[2], int(math.max(now, tonumber(fence) + 1)), '1', '0', ARGV[7])
return 1
"""
)
