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
"""

from __future__ import annotations

from typing import Final

_PRELUDE: Final = """
local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end
local function int(n) return string.format('%.0f', n) end
local function next_fence(record)
  return int(math.max(now_ms(), tonumber(redis.call('HGET', record, 'fence') or '0') + 1))
end
local function say(record, channel, fence, seq, terminal, event)
  local now = int(now_ms())
  redis.call('HSET', record, 'fence', fence, 'seq', seq, 'terminal', terminal, 'event', event, 'updated_ms', now)
  redis.call('PUBLISH', channel, fence .. '-' .. seq .. ' ' .. terminal .. ' ' .. event)
end
"""

#: A new download, or the one under way for the same identity.
#: KEYS: record, channel, flight, downloads, pending, secret.
#: ARGV: id, terminal (0|1), event, ttl_s of ended records, most queued, sealed credentials or '', their ttl_s,
#:   local_path or '', then the record's fields as name, value, ...
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
  if live and ARGV[2] == '0' then return {under_way, 'joined'} end
  if found[1] == '1' and ARGV[2] == '1' and found[2] == ARGV[8] then return {under_way, 'known'} end
end
if ARGV[2] == '0' and redis.call('ZCARD', KEYS[5]) >= tonumber(ARGV[5]) then return {'', 'full'} end
for i = 9, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
local now = now_ms()
redis.call('HSET', KEYS[1], 'id', ARGV[1], 'created_ms', int(now))
redis.call('ZADD', KEYS[4], int(now), ARGV[1])
if ARGV[2] == '1' then
  redis.call('HSET', KEYS[1], 'ended_ms', int(now), 'local_path', ARGV[8])
  redis.call('EXPIRE', KEYS[1], ARGV[4])
  if not live then redis.call('SET', KEYS[3], ARGV[1], 'EX', ARGV[4]) end
else
  redis.call('SET', KEYS[3], ARGV[1])
  redis.call('ZADD', KEYS[5], int(now), ARGV[1])
  if ARGV[6] ~= '' then redis.call('SET', KEYS[6], ARGV[6], 'EX', ARGV[7]) end
end
say(KEYS[1], KEYS[2], int(now), '1', ARGV[2], ARGV[3])
return {ARGV[1], 'created'}
"""
)

#: KEYS: record, channel, pending, leases. ARGV: id, attempt, owner, lease_ms, worker, event.
#: -> the fence, or '' when the job is stale: not queued any more, or queued for another attempt.
CLAIM: Final = (
    _PRELUDE
    + """
local r = redis.call('HMGET', KEYS[1], 'state', 'attempt', 'owner', 'fence', 'bytes_done')
if r[1] == 'running' and r[3] == ARGV[3] then return r[4] end
if r[1] ~= 'queued' or r[2] ~= ARGV[2] then return '' end
local fence = next_fence(KEYS[1])
local now = now_ms()
redis.call('HSET', KEYS[1], 'state', 'running', 'status', 'resolving', 'owner', ARGV[3], 'worker', ARGV[5])
redis.call('HSET', KEYS[1], 'bytes_at_claim', r[5] or '0')
redis.call('HSETNX', KEYS[1], 'started_ms', int(now))
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('ZADD', KEYS[4], int(now + ARGV[4]), ARGV[1])
say(KEYS[1], KEYS[2], fence, '1', '0', ARGV[6])
return fence
"""
)

#: KEYS: record, channel, leases. ARGV: id, fence, seq, event, lease_ms, status, bytes done. -> {1, control} or {0,
#:   ''} when fenced out.
PUBLISH: Final = (
    _PRELUDE
    + """
local r = redis.call('HMGET', KEYS[1], 'state', 'fence', 'seq', 'control')
if r[1] ~= 'running' or r[2] ~= ARGV[2] then return {0, ''} end
redis.call('ZADD', KEYS[3], int(now_ms() + ARGV[5]), ARGV[1])
if tonumber(ARGV[3]) > tonumber(r[3]) then
  redis.call('HSET', KEYS[1], 'status', ARGV[6], 'bytes_done', ARGV[7])
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
#:   lease may go, event, `queued` or `paused`.
#: -> 1 released, 0 refused.
RELEASE: Final = (
    _PRELUDE
    + """
local r = redis.call('HMGET', KEYS[1], 'state', 'fence', 'attempt', 'bytes_done', 'bytes_at_claim', 'stalls')
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
if ARGV[7] == 'queued' then
  redis.call('ZADD', KEYS[3], int(now_ms()), ARGV[1])
else
  redis.call('HSET', KEYS[1], 'control', '')
  redis.call('ZREM', KEYS[3], ARGV[1])
end
say(KEYS[1], KEYS[2], next_fence(KEYS[1]), '1', '0', ARGV[6])
return 1
"""
)

#: The one end. KEYS: record, channel, pending, leases, flight, secret.
#: ARGV: id, fence as read or held, seq or '' (from outside: takes a new fence), state, event, ttl_s, local_path, 1
#:   when only an expired
#: lease may go. -> 1 ended (or was ended by this very call), 0 refused.
FINISH: Final = (
    _PRELUDE
    + """
local r = redis.call('HMGET', KEYS[1], 'terminal', 'fence', 'seq', 'event')
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
redis.call('DEL', KEYS[6])
redis.call('EXPIRE', KEYS[1], ARGV[6])
if redis.call('GET', KEYS[5]) == ARGV[1] then redis.call('EXPIRE', KEYS[5], ARGV[6]) end
say(KEYS[1], KEYS[2], fence, seq, '1', ARGV[5])
return 1
"""
)

#: Leaves a word for the worker that runs it, read with its next publish or renewal. KEYS: record. ARGV: word, fence
#:   as read. -> 1 or 0.
CONTROL: Final = """
local r = redis.call('HMGET', KEYS[1], 'state', 'fence')
if r[1] ~= 'running' or r[2] ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'control', ARGV[1])
return 1
"""
