-- Count one start of a user against the user's limits, once per job id.
-- KEYS 1 starts (zset), 2 jobs (zset)
-- ARGV 1 job id, 2 starts per minute, 3 jobs at a time (0 is no limit), 4 ttl ms, 5 ms for which a job may have no record
-- Returns {'ok'}; {'starts', ms until there is room}; {'jobs', how many of them are older than ARGV 5, ids by age…}.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local starts, jobs, ttl = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
if jobs > 0 and not redis.call('ZSCORE', KEYS[2], ARGV[1]) then
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - ttl)
  if redis.call('ZCARD', KEYS[2]) >= jobs then
    local old = redis.call('ZCOUNT', KEYS[2], '-inf', now - tonumber(ARGV[5]))
    return {'jobs', tostring(old), unpack(redis.call('ZRANGE', KEYS[2], 0, 999))}
  end
end
local stamp = string.format('%.0f', now)
if starts > 0 and not redis.call('ZSCORE', KEYS[1], ARGV[1]) then
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - 60000)
  if redis.call('ZCARD', KEYS[1]) >= starts then
    local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
    return {'starts', string.format('%.0f', math.max(1, first[2] + 60001 - now))}
  end
  redis.call('ZADD', KEYS[1], stamp, ARGV[1])
  redis.call('PEXPIRE', KEYS[1], 61000)
end
if jobs > 0 then
  redis.call('ZADD', KEYS[2], stamp, ARGV[1])
  redis.call('PEXPIRE', KEYS[2], ARGV[4])
end
return {'ok'}
