-- Give a running job back for its next attempt. Repeating it is answered as the first time.
-- KEYS 1 meta (hash), 2 log (stream)
-- ARGV 1 attempt, 2 holder, 3 next state (queued or waiting), 4 ttl ms,
--      5 Unix ms at which the next attempt is due or ''
-- Returns 1 released, -1 fenced, -2 cancelled, -3 gone, -5 Redis has an older attempt.
local m = redis.call('HMGET', KEYS[1], 'attempt', 'state', 'cancel', 'hold')
if not m[2] then return -3 end
local attempt, mine = tonumber(m[1]), tonumber(ARGV[1])
if attempt < mine then return -5 end
if attempt > mine then return -1 end
if m[2] == ARGV[3] then return 1 end
if m[2] ~= 'running' or m[4] ~= ARGV[2] then return -1 end
if m[3] then return -2 end
redis.call('HSET', KEYS[1], 'state', ARGV[3], 'due', ARGV[5])
redis.call('HDEL', KEYS[1], 'host', 'hold')
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
return 1
