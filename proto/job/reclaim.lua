-- Take a job from a dead host: its attempt is fenced. Any number of reclaimers get the same answer.
-- KEYS 1 meta (hash)
-- ARGV 1 host, 2 attempt, 3 ttl ms
-- Returns {'ok', policy, priority, crashes, lost ('1' or ''), cancel ('1' or ''), due ms or ''}, {'stale'} or {'gone'}.
local m = redis.call('HMGET', KEYS[1], 'state', 'attempt', 'host', 'policy', 'priority', 'cancel')
if not m[1] then return {'gone'} end
if m[2] ~= ARGV[2] then return {'stale'} end
if m[1] == 'running' then
  if m[3] ~= ARGV[1] then return {'stale'} end
  redis.call('HINCRBY', KEYS[1], 'crashes', 1)
  redis.call('HSET', KEYS[1], 'state', 'queued', 'lost', '1')
  redis.call('HDEL', KEYS[1], 'host', 'hold', 'due')
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
elseif m[1] ~= 'queued' and m[1] ~= 'waiting' then
  return {'stale'}
end
local r = redis.call('HMGET', KEYS[1], 'crashes', 'lost', 'due')
return {'ok', m[4] or '', m[5] or '', r[1] or '0', r[2] or '', m[6] or '', r[3] or ''}
