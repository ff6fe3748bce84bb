-- Append frames to the log and publish them: fenced, refused after a cancel, idempotent by seq, and a gap is
-- refused, so that neither a repetition after a lost reply nor a loss in Redis can double or skip a frame.
-- KEYS 1 meta (hash), 2 log (stream)
-- ARGV 1 attempt, 2 holder, 3 seq of the first frame, 4 ttl ms, 5 terminal state the last frame ends the job in or
--      '', 6 model or '', 7 the job's channel, then per frame: general channel or '', frame
-- Returns {code, n}:
--    1 appended, n = last seq
--   -1 fenced
--   -2 cancelled, n = last seq
--   -3 gone
--   -4 gap, n = last seq
--   -5 Redis has an older attempt than this one: it lost data
local m = redis.call('HMGET', KEYS[1], 'attempt', 'state', 'cancel', 'seq', 'hold')
if not m[2] then return {-3, 0} end
local attempt, seq, first, ending = tonumber(m[1]), tonumber(m[4]), tonumber(ARGV[3]), ARGV[5]
local mine, last = tonumber(ARGV[1]), first + (#ARGV - 7) / 2 - 1
if attempt < mine then return {-5, attempt} end
if attempt > mine then return {-1, attempt} end
if m[2] ~= 'running' then
  if ending ~= '' and m[2] == ending and seq == last then return {1, seq} end -- the reply was lost
  return {-1, attempt}
end
if m[5] ~= ARGV[2] then return {-1, attempt} end
if m[3] and ending ~= 'cancelled' then return {-2, seq} end
if first > seq + 1 then return {-4, seq} end
for i = 8, #ARGV, 2 do
  local s = first + (i - 8) / 2
  if s > seq then
    redis.call('XADD', KEYS[2], string.format('%.0f-0', s), 'f', ARGV[i + 1])
    redis.pcall('PUBLISH', ARGV[7], ARGV[i + 1]) -- refused, perhaps: whoever watches finds it in the log
    if ARGV[i] ~= '' then redis.pcall('PUBLISH', ARGV[i], ARGV[i + 1]) end
    seq = s
  end
end
redis.call('HSET', KEYS[1], 'seq', string.format('%.0f', seq))
if ARGV[6] ~= '' then redis.call('HSET', KEYS[1], 'model', ARGV[6]) end
if ending ~= '' then
  local t = redis.call('TIME')
  redis.call('HSET', KEYS[1], 'state', ending, 'ended', string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000)))
  redis.call('HDEL', KEYS[1], 'host', 'hold')
end
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
return {1, seq}
