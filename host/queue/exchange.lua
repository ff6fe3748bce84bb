-- Takes up to ARGV[3] tasks in one step. Does for each what asynq's own dequeue
-- does, and stamps it with its owner (field "o"), so that a task whose reply was
-- lost can be told from those of other hosts.
--
-- KEYS[1] asynq:{q}:pending  list
-- KEYS[2] asynq:{q}:paused   string, exists while the queue is paused
-- KEYS[3] asynq:{q}:active   list
-- KEYS[4] asynq:{q}:lease    zset, score = unix seconds
-- ARGV[1] end of the lease, unix seconds
-- ARGV[2] prefix of task keys, asynq:{q}:t:
-- ARGV[3] how many at most
-- ARGV[4] owner
-- Returns id, message, id, message, …
if redis.call("EXISTS", KEYS[2]) == 1 then
	return {}
end
local out = {}
while #out < 2 * tonumber(ARGV[3]) do
	local id = redis.call("RPOPLPUSH", KEYS[1], KEYS[3])
	if not id then
		break
	end
	local key = ARGV[2] .. id
	local msg = redis.call("HGET", key, "msg")
	if msg then
		redis.call("HSET", key, "state", "active", "o", ARGV[4])
		redis.call("HDEL", key, "pending_since")
		redis.call("ZADD", KEYS[4], ARGV[1], id)
		out[#out + 1] = id
		out[#out + 1] = msg
	else
		redis.call("LREM", KEYS[3], 1, id) -- its record is gone: nothing to run
	end
end
return out
