-- Take the begin of an attempt back, of which nothing has been written.
-- Repeating it is answered as the first time.
-- KEYS 1 meta (hash)
-- ARGV 1 attempt, 2 holder, 3 '1' if it was the job's first begin
-- Returns 1 taken back, -1 fenced, -2 cancelled, -3 gone.
local m = redis.call('HMGET', KEYS[1], 'attempt', 'state', 'cancel', 'hold')
if not m[2] then return -3 end
local attempt, mine = tonumber(m[1]), tonumber(ARGV[1])
if attempt == mine - 1 and m[2] == 'queued' then return 1 end
if attempt ~= mine or m[2] ~= 'running' or m[4] ~= ARGV[2] then return -1 end
if m[3] then return -2 end
redis.call('HSET', KEYS[1], 'attempt', string.format('%.0f', mine - 1), 'state', 'queued')
redis.call('HDEL', KEYS[1], 'host', 'hold')
if ARGV[3] == '1' then redis.call('HDEL', KEYS[1], 'started') end
return 1
