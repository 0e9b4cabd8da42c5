-- A webhook of a request. Of a download that has ended, the message is due at once and has a name of its own: this
-- request is to hear of the end that others have heard of. Those whose names end in `mark` count together; `host`: a
-- name for where it goes.
-- -> 'added', 'full', 'gone' (no such download).
local record, webhooks, due = unpack(KEYS)
local id, name, sealed_url, max_per_download, kept_s, mark, host = unpack(ARGV)
--! include prelude

local terminal = redis.call('HGET', record, 'terminal')
if not terminal then return 'gone' end
if terminal == '1' then name = string.sub(name, 1, -#mark - 1) .. '-' .. int(now_ms()) .. mark end
if redis.call('HEXISTS', webhooks, 't:' .. name) == 0 then
  local others = 0
  for _, field in ipairs(redis.call('HKEYS', webhooks)) do
    if string.sub(field, 1, 2) == 't:' and (mark == '' or string.sub(field, -#mark) == mark) then others = others + 1 end
  end
  if others >= tonumber(max_per_download) then return 'full' end
  redis.call('HSET', webhooks, 't:' .. name, sealed_url, 'h:' .. name, host)
end
if terminal == '1' then
  redis.call('ZADD', due, int(now_ms()), id .. '/' .. name)
  redis.call('EXPIRE', webhooks, kept_s)
end
return 'added'
