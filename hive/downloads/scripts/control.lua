-- Leaves a word for the worker that runs it, read with its next publish or renewal; `yield` only where nobody left one
-- before. `fence` as read. -> 1 or 0.
local record = unpack(KEYS)
local word, fence = unpack(ARGV)

local r = redis.call('HMGET', record, 'state', 'fence', 'control')
if r[1] ~= 'running' or r[2] ~= fence then return 0 end
if word == 'yield' and r[3] and r[3] ~= '' and r[3] ~= 'yield' then return 0 end
redis.call('HSET', record, 'control', word)
return 1
