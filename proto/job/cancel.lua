-- Accept a cancel: from here on no attempt begins and no chunk is appended.
-- KEYS 1 meta (hash)
-- ARGV 1 owner, as Owner(tenant, user) writes it, 2 '1' if any user's job may be cancelled, 3 cancel channel, 4 job id, 5 ttl ms
-- Returns the state found, '' if there is no such job for this user.
local m = redis.call('HMGET', KEYS[1], 'user', 'state', 'tenant')
if not m[1] then return '' end
local owner = m[1]
if m[3] and m[3] ~= '' then owner = m[3] .. '\31' .. owner end
if ARGV[2] ~= '1' and owner ~= ARGV[1] then return '' end
local state = m[2]
if state == 'complete' or state == 'failed' or state == 'cancelled' then return state end
redis.call('HSET', KEYS[1], 'cancel', '1')
redis.call('PEXPIRE', KEYS[1], ARGV[5])
if state == 'running' then redis.pcall('PUBLISH', ARGV[3], ARGV[4]) end
return state
