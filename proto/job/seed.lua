-- Write the record of a running attempt again after Redis lost it or went back to an older attempt. The holder
-- then appends its frames from base + 1. A record of the same or a newer attempt is left alone.
-- KEYS 1 meta (hash), 2 log (stream)
-- ARGV 1 attempt, 2 holder, 3 host, 4 base seq, 5 ttl ms, 6 user, 7 tenant, 8 request, 9 policy, 10 priority,
--      11 created, 12 started, 13 crashes, 14 model
-- Returns {1, last seq} or {-1, 0} fenced.
local m = redis.call('HMGET', KEYS[1], 'attempt', 'hold', 'seq')
local attempt, mine = tonumber(m[1] or '-1'), tonumber(ARGV[1])
if attempt == mine and m[2] == ARGV[2] then return {1, tonumber(m[3])} end
if attempt >= mine then return {-1, 0} end
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
if attempt < 0 or (last and tonumber(string.match(last[1], '^%d+')) > tonumber(ARGV[4])) then
  redis.call('DEL', KEYS[2])
end
redis.call('HSET', KEYS[1], 'user', ARGV[6], 'tenant', ARGV[7], 'req', ARGV[8], 'policy', ARGV[9],
  'priority', ARGV[10], 'state', 'running', 'attempt', ARGV[1], 'seq', ARGV[4], 'host', ARGV[3], 'hold', ARGV[2],
  'created', ARGV[11], 'started', ARGV[12], 'crashes', ARGV[13], 'model', ARGV[14])
redis.call('HDEL', KEYS[1], 'ended', 'lost')
redis.call('PEXPIRE', KEYS[1], ARGV[5])
redis.call('PEXPIRE', KEYS[2], ARGV[5])
return {1, tonumber(ARGV[4])}
