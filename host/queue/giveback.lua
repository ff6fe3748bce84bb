-- Puts the active tasks of one owner back to the head of the queue, but for
-- those it says it has.
--
-- KEYS[1] asynq:{q}:pending  list
-- KEYS[2] asynq:{q}:active   list
-- KEYS[3] asynq:{q}:lease    zset
-- ARGV[1] prefix of task keys, asynq:{q}:t:
-- ARGV[2] owner
-- ARGV[3…] ids to leave alone
-- Returns how many were put back.
local keep = {}
for i = 3, #ARGV do
	keep[ARGV[i]] = true
end
local n = 0
for _, id in ipairs(redis.call("LRANGE", KEYS[2], 0, -1)) do
	local key = ARGV[1] .. id
	if not keep[id] and redis.call("HGET", key, "o") == ARGV[2] then
		redis.call("LREM", KEYS[2], 1, id)
		redis.call("ZREM", KEYS[3], id)
		redis.call("RPUSH", KEYS[1], id)
		redis.call("HSET", key, "state", "pending")
		redis.call("HDEL", key, "o")
		n = n + 1
	end
end
return n
