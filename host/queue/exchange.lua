-- Ends tasks that are done and takes others, in one step. Does for each what
-- asynq's own scripts do, and stamps those taken with their owner (field "o"),
-- so that a task whose reply was lost can be told from those of other hosts.
-- May be repeated as to the ends: what has ended already is passed over.
--
-- KEYS[1] asynq:{q}:pending          list
-- KEYS[2] asynq:{q}:paused           string, exists while the queue is paused
-- KEYS[3] asynq:{q}:active           list
-- KEYS[4] asynq:{q}:lease            zset, score = unix seconds
-- KEYS[5] asynq:{q}:processed:<day>  string, counter; with ids only
-- KEYS[6] asynq:{q}:processed        string, counter; with ids only
-- ARGV[1] end of the lease, unix seconds
-- ARGV[2] prefix of task keys, asynq:{q}:t:
-- ARGV[3] how many to take at most
-- ARGV[4] owner
-- ARGV[5] when the counter of the day expires, unix seconds; with ids only
-- ARGV[6…] ids of the tasks that are done
-- Returns id, message, id, message, … of those taken.
local ended, records = {}, {}
for i = 6, #ARGV do
	-- The oldest are at the tail, and they end first as a rule.
	if redis.call("LREM", KEYS[3], -1, ARGV[i]) == 1 then
		ended[#ended + 1] = ARGV[i]
		records[#records + 1] = ARGV[2] .. ARGV[i]
	end
end
if #ended > 0 then
	redis.call("ZREM", KEYS[4], unpack(ended))
	redis.call("DEL", unpack(records))
	if redis.call("INCRBY", KEYS[5], #ended) == #ended then
		redis.call("EXPIREAT", KEYS[5], ARGV[5])
	end
	redis.call("INCRBY", KEYS[6], #ended)
end

local out, leases, most = {}, {}, 2 * tonumber(ARGV[3])
if most == 0 or redis.call("EXISTS", KEYS[2]) == 1 then
	return out
end
while #out < most do
	local id = redis.call("RPOPLPUSH", KEYS[1], KEYS[3])
	if not id then
		break
	end
	local key = ARGV[2] .. id
	local msg = redis.call("HGET", key, "msg")
	if msg then
		redis.call("HSET", key, "state", "active", "o", ARGV[4])
		redis.call("HDEL", key, "pending_since")
		leases[#leases + 1] = ARGV[1]
		leases[#leases + 1] = id
		out[#out + 1] = id
		out[#out + 1] = msg
	else
		redis.call("LREM", KEYS[3], 1, id) -- its record is gone: nothing to run
	end
end
if #leases > 0 then
	redis.call("ZADD", KEYS[4], unpack(leases))
end
return out
