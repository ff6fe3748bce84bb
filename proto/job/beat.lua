-- Heartbeat of one host by Redis time, and the heartbeats of all.
-- KEYS 1 beats (zset), 2 infos (hash)
-- ARGV 1 host or '' (only look), 2 info (JSON), 3 '1' if the info changed
-- Returns {now ms, host, ms, host, ms, …}.
local t = redis.call('TIME')
local now = string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000))
if ARGV[1] ~= '' then
  if redis.call('ZADD', KEYS[1], now, ARGV[1]) == 1 or ARGV[3] == '1' then
    redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
  end
  redis.call('PEXPIRE', KEYS[1], 3600000)
  redis.call('PEXPIRE', KEYS[2], 3600000)
end
local r = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
table.insert(r, 1, now)
return r
