-- GCRA: books `wanted` bytes, or the taker's share of the next `share_us`, behind what is booked already.
-- `initial`: the limit by the settings in bytes a second; `taker` names the process, and is forgotten after
-- `taker_ttl_us`; a booking more than `booked_max_us` ahead is a clock that was set back.
-- -> {limit, bytes granted, us to wait, takers}; limit 0: none.
local limit, line, takers = unpack(KEYS)
local wanted, share_us, initial, taker, taker_ttl_us, booked_max_us = unpack(ARGV)

-- What is no number counts as none (read_limit in hive/downloads/admission.py).
local set = redis.call('GET', limit) or ''
local rate = tonumber(string.match(set, '^%d+$') and #set <= 15 and set or initial)
if rate <= 0 then return {0, 0, 0, 1} end
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
-- What was taken later than now was taken by a clock that has been set back since.
redis.call('ZREMRANGEBYSCORE', takers, string.format('(%.0f', now), '+inf')
redis.call('ZADD', takers, string.format('%.0f', now), taker)
redis.call('ZREMRANGEBYSCORE', takers, '-inf', string.format('%.0f', now - taker_ttl_us))
redis.call('PEXPIRE', takers, 60000)
local sharers = redis.call('ZCARD', takers)
local share = tonumber(share_us)
local granted = math.max(tonumber(wanted), math.floor(rate * share / 1000000 / sharers))
local free = tonumber(redis.call('GET', line) or '0') or 0
if free > now + tonumber(booked_max_us) then free = now end
local start = math.max(free, now - share)
local after = start + granted * 1000000 / rate
redis.call('SET', line, string.format('%.0f', after), 'PX', math.ceil(math.max(after - now, 0) / 1000) + 60000)
return {rate, granted, math.ceil(math.max(start - now, 0)), sharers}
