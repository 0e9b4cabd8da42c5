-- What one owner may have: downloads in the queue, records in all, bytes of a day. Few owners come near, so the queue is
-- counted only for one who has that many records. `fetches`: whether bytes are to come; `waits`: whether it waits in the
-- queue. -> what is too much, or nil.
local function refuse_owner(owner, pending, fetches, waits, most_queued, most_records, most_bytes)
  local own = 'hive:owner:' .. owner
  local records = redis.call('ZCARD', own)
  if fetches and most_bytes > 0
    and (tonumber(redis.call('HGET', quota_key(now_ms()), owner) or '0') or 0) >= most_bytes then
    return 'spent'
  end
  if waits and most_queued > 0 and records >= most_queued then
    local queued = 0
    for _, id in ipairs(redis.call('ZRANGE', own, 0, -1)) do
      if redis.call('ZSCORE', pending, id) then queued = queued + 1 end
    end
    if queued >= most_queued then return 'own_full' end
  end
  if most_records > 0 and records >= most_records then return 'own_crowded' end
end
