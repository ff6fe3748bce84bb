-- Turn a ticket into the next attempt. Repeating it by the same holder is answered as the first time.
-- KEYS 1 meta (hash), 2 log (stream)
-- ARGV 1 attempt of the ticket, 2 host, 3 holder (one incarnation of a host), 4 ttl ms
-- Returns {'ok', now ms, seq, created, started, crashes, policy, req}, {'gone'}, {'cancelled'} or {'stale'}.
local m = redis.call('HMGET', KEYS[1], 'state', 'attempt', 'cancel', 'hold')
local state, attempt, n = m[1], tonumber(m[2]), tonumber(ARGV[1])
if not state then return {'gone'} end
if m[3] or state == 'cancelled' then return {'cancelled'} end
local again = state == 'running' and attempt == n and m[4] == ARGV[3]
if not again then
  if attempt ~= n - 1 or (state ~= 'queued' and state ~= 'waiting' and state ~= 'failed') then return {'stale'} end
end
local t = redis.call('TIME')
local now = string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000))
redis.call('HSET', KEYS[1], 'state', 'running', 'attempt', ARGV[1], 'host', ARGV[2], 'hold', ARGV[3])
redis.call('HSETNX', KEYS[1], 'started', now)
redis.call('HDEL', KEYS[1], 'ended', 'lost')
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
local r = redis.call('HMGET', KEYS[1], 'seq', 'created', 'started', 'crashes', 'policy', 'req')
return {'ok', now, r[1], r[2], r[3], r[4] or '0', r[5] or '', r[6]}
