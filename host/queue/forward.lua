-- Moves the tasks that are due to the pending list, as asynq's own script does.
-- Used instead of that while Redis is out of memory: asynq's is refused then.
--
-- KEYS[1] asynq:{q}:scheduled or asynq:{q}:retry  zset, score = unix seconds
-- KEYS[2] asynq:{q}:pending                       list
-- ARGV[1] now, unix seconds
-- ARGV[2] prefix of task keys, asynq:{q}:t:
-- ARGV[3] now, unix nanoseconds
-- ARGV[4] prefix of group keys, asynq:{q}:g:
-- Returns how many were moved, 100 at most.
local ids = redis.call("ZRANGEBYSCORE", KEYS[1], "-inf", ARGV[1], "LIMIT", 0, 100)
for _, id in ipairs(ids) do
	local key = ARGV[2] .. id
	local group = redis.call("HGET", key, "group")
	redis.call("ZREM", KEYS[1], id)
	if group and group ~= "" then
		redis.call("ZADD", ARGV[4] .. group, ARGV[1], id)
		redis.call("HSET", key, "state", "aggregating")
	else
		redis.call("LPUSH", KEYS[2], id)
		redis.call("HSET", key, "state", "pending", "pending_since", ARGV[3])
	end
end
return #ids
