-- Accept a job, once per (id, tenant, user), and make it known to the owner's tabs.
-- KEYS 1 meta (hash)
-- ARGV 1 user, 2 tenant, 3 request, 4 policy, 5 priority, 6 ttl ms, 7 channel, 8 job:started frame
-- Returns {1, now ms} created; {0} there already; {-1} another user's.
local owner = redis.call('HMGET', KEYS[1], 'user', 'tenant')
if owner[1] == ARGV[1] and (owner[2] or '') == ARGV[2] then return {0} end
if owner[1] then return {-1} end
local t = redis.call('TIME')
local now = string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000))
redis.call('HSET', KEYS[1], 'user', ARGV[1], 'tenant', ARGV[2], 'req', ARGV[3], 'policy', ARGV[4],
  'priority', ARGV[5], 'state', 'queued', 'attempt', '0', 'seq', '0', 'created', now)
redis.call('PEXPIRE', KEYS[1], ARGV[6])
redis.pcall('PUBLISH', ARGV[7], ARGV[8]) -- refused, perhaps: the job is accepted all the same
return {1, now}
