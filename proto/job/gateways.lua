-- The heartbeat of a gateway, and which gateways have none.
-- KEYS 1 beats of gateways (zset: gateway -> Redis time in ms)
-- ARGV 1 gateway, 2 ms without a beat after which one is gone, 3 ttl ms, 4… gateways that are asked for
-- Returns {1 if this gateway was known, else 0, those asked for that are gone…}.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local silent = now - tonumber(ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. string.format('%.0f', silent))
local known = redis.call('ZSCORE', KEYS[1], ARGV[1]) and '1' or '0'
redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
local said = {known}
for i = 4, #ARGV do
  if not redis.call('ZSCORE', KEYS[1], ARGV[i]) then
    said[#said + 1] = ARGV[i]
  end
end
return said
