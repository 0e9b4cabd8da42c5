-- A new download, or the one under way for the same identity, which `owner` then shares; one that somebody else is
-- ending is not joined.
-- `terminal` is 0 or 1; `sealed` credentials and `local_path` may be ''; `owner` is '' without a key; `told`: what the
-- channel of its owners begins with; `permission` names the token that it is to be fetched with, '' for none of its
-- own: who has another makes another download, and who joins with the first one brings it along (lend.lua). Then, or
-- where somebody without one joins, the record is `lent`: not all who share it have asked with its token. The rest of
-- ARGV: the record's fields as name, value, ...
-- `owner_queued`, `owner_records`, `owner_bytes`: what one owner may have, in the queue, in all, and of a day; 0 for no
-- limit. Who joins takes as much as who makes: a record, and a place in the queue while it waits there. The bytes are the
-- first owner's (prelude.lua), but who has spent theirs does not join: the first may give up their share at once.
-- -> {id, 'created' | 'joined' | 'known' | 'full' | 'crowded' | 'own_full' | 'own_crowded' | 'spent'}; `known`: this very
-- end is recorded already; `crowded`: there are as many records as there may be; `own_...`: of this owner.
local record, channel, flight, downloads, pending, secret = unpack(KEYS)
local id, terminal, event, ended_ttl_s, max_queued, max_records, sealed, sealed_ttl_s, local_path, priority, owner, max_owners, told, owner_queued, owner_records, owner_bytes, permission = unpack(ARGV)
--! include prelude
--! include owners
--! include turns
--! include caps

local function refusal_of(fetches, waits)
  if owner == '' then return nil end
  return refuse_owner(owner, pending, fetches, waits, tonumber(owner_queued), tonumber(owner_records),
    tonumber(owner_bytes))
end
if redis.call('EXISTS', record) == 1 then return {id, 'created'} end
local under_way = redis.call('GET', flight)
local live = false
if under_way then
  local other = 'hive:{' .. under_way .. '}'
  local r = redis.call('HMGET', other, 'terminal', 'local_path', 'priority', 'created_ms', 'owners', 'control',
    'permission', 'line', 'place_ms')
  local lines = r[5] or ''
  local theirs = r[7] or ''
  local is_own = has_owner(lines, owner)
  live = r[1] == '0'
  if live and terminal == '0' and not (r[6] == 'cancel' and owner ~= '')
    and (theirs == '' or permission == '' or theirs == permission)
    and has_room(lines, owner, max_owners) then
    local refusal = not is_own and refusal_of(true, redis.call('ZSCORE', pending, under_way))
    if refusal then return {'', refusal} end
    share(under_way, lines, owner, r[4], told)
    if RANKS[priority] < (RANKS[r[3]] or 1) then
      redis.call('HSET', other, 'priority', priority)
      if redis.call('ZSCORE', pending, under_way) then
        step_out(under_way, whose_turn(r[8], lines))
        enter(under_way, whose_turn(r[8], lines), priority, r[9] or r[4])
      end
    end
    hurry(under_way, r[8], lines, owner, redis.call('HGET', other, 'priority'))
    if permission ~= '' then redis.call('HSET', other, 'permission', permission) end
    if permission ~= theirs then redis.call('HSET', other, 'lent', '1') end
    count('joined')
    return {under_way, 'joined'}
  end
  if r[1] == '1' and terminal == '1' and r[2] == local_path and has_room(lines, owner, max_owners) then
    local refusal = not is_own and refusal_of(false, false)
    if refusal then return {'', refusal} end
    share(under_way, lines, owner, r[4], told)
    return {under_way, 'known'}
  end
end
local refusal = refusal_of(terminal == '0', terminal == '0')
if refusal then return {'', refusal} end
if terminal == '0' and redis.call('ZCARD', pending) >= tonumber(max_queued) then return {'', 'full'} end
if redis.call('ZCARD', downloads) >= tonumber(max_records) then return {'', 'crowded'} end
for i = 18, #ARGV, 2 do redis.call('HSET', record, ARGV[i], ARGV[i + 1]) end
local now = now_ms()
redis.call('HSET', record, 'id', id, 'created_ms', int(now), 'queued_ms', int(now), 'priority', priority)
redis.call('ZADD', downloads, int(now), id)
if permission ~= '' then redis.call('HSET', record, 'permission', permission) end
if owner ~= '' then
  redis.call('HSET', record, 'owners', owner)
  index_owner(id, owner, int(now))
end
index(id, terminal == '1' and 'complete' or 'queued', int(now))
if terminal == '1' then
  redis.call('HSET', record, 'ended_ms', int(now), 'local_path', local_path)
  redis.call('EXPIRE', record, ended_ttl_s)
  if not live then redis.call('SET', flight, id, 'EX', ended_ttl_s) end
else
  redis.call('SET', flight, id)
  enter(id, owner, priority, now)
  count('created')
  if sealed ~= '' then redis.call('SET', secret, sealed, 'EX', sealed_ttl_s) end
end
say(record, channel, int(now), '1', terminal, event)
return {id, 'created'}
