-- Forget a host, unless it has sent a heartbeat since.
-- KEYS 1 beats (zset), 2 infos (hash)
-- ARGV 1 host, 2 ms a heartbeat may be old at most to keep it, -1 to forget it anyway
-- Returns 1 if it was forgotten.
local at = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not at then return 0 end
local t = redis.call('TIME')
local age = t[1] * 1000 + math.floor(t[2] / 1000) - tonumber(at)
if tonumber(ARGV[2]) >= 0 and age < tonumber(ARGV[2]) then return 0 end
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
return 1
