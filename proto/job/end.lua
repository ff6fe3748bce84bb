-- End a job that no attempt holds, with a terminal frame made from what the log holds.
-- KEYS 1 meta (hash), 2 log (stream)
-- ARGV 1 attempt and 2 seq the frame was made from, 3 terminal state, 4 ttl ms, 5 the job's channel,
--      6 general channel or '', 7 frame
-- Returns 1 ended, 0 it has changed meanwhile, -3 gone.
local m = redis.call('HMGET', KEYS[1], 'attempt', 'state', 'seq', 'cancel')
if not m[2] then return -3 end
if m[2] ~= 'queued' and m[2] ~= 'waiting' then return 0 end
if m[1] ~= ARGV[1] or m[3] ~= ARGV[2] then return 0 end
if m[4] and ARGV[3] ~= 'cancelled' then return 0 end
local seq = string.format('%.0f', tonumber(m[3]) + 1)
redis.call('XADD', KEYS[2], seq .. '-0', 'f', ARGV[7])
redis.pcall('PUBLISH', ARGV[5], ARGV[7])
if ARGV[6] ~= '' then redis.pcall('PUBLISH', ARGV[6], ARGV[7]) end
local t = redis.call('TIME')
redis.call('HSET', KEYS[1], 'seq', seq, 'state', ARGV[3],
  'ended', string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000)))
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
return 1
