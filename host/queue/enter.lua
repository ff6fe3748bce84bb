-- Takes the task of a room whose turn it is. Does what a dequeue does, and stamps
-- it with its owner (see exchange.lua). What is in the room and no longer waits, since
-- it was due and has been taken otherwise, is dropped.
--
-- KEYS[1] sluice:{q}:room:<room>   zset, score = rank
-- KEYS[2] sluice:{q}:turns:<room>  hash
-- KEYS[3] asynq:{q}:scheduled      zset
-- KEYS[4] asynq:{q}:paused         string, exists while the queue is paused
-- KEYS[5] asynq:{q}:active         list
-- KEYS[6] asynq:{q}:lease          zset, score = unix seconds
-- ARGV[1] end of the lease, unix seconds
-- ARGV[2] prefix of task keys, asynq:{q}:t:
-- ARGV[3] owner
-- Returns id, message; nothing when nobody waits.
if redis.call("EXISTS", KEYS[4]) == 1 then
	return {}
end
while true do
	local first = redis.call("ZRANGE", KEYS[1], 0, 0, "WITHSCORES")
	local id = first[1]
	if not id then
		redis.call("DEL", KEYS[2])
		return {}
	end
	redis.call("ZREM", KEYS[1], id)
	local key = ARGV[2] .. id
	if redis.call("ZREM", KEYS[3], id) == 1 then
		local msg = redis.call("HGET", key, "msg")
		if msg then
			redis.call("HSET", KEYS[2], "", first[2])
			redis.call("LPUSH", KEYS[5], id)
			redis.call("HSET", key, "state", "active", "o", ARGV[3])
			redis.call("HDEL", key, "room")
			redis.call("ZADD", KEYS[6], ARGV[1], id)
			return { id, msg }
		end
	end
end
