-- Puts a task that is active into a room, where it waits until a host claims it
-- from there, and at most until it is due: then it is taken as any other.
--
-- A room is fair: every flow (a tenant) has its turns, however many tasks it has
-- waiting; within a flow the order is that of coming. The rank of a task is one
-- turn after the last of its flow, or after the task claimed last if that is
-- later (start-time fair queueing). A task that is in the room keeps its rank.
--
-- KEYS[1] asynq:{q}:t:<id>      hash
-- KEYS[2] asynq:{q}:active      list
-- KEYS[3] asynq:{q}:lease       zset
-- KEYS[4] asynq:{q}:scheduled   zset, score = unix seconds
-- KEYS[5] sluice:{q}:room:<room>   zset, score = rank; see roomKey
-- KEYS[6] sluice:{q}:turns:<room>  hash, last rank by flow, and of the task claimed last under ""
-- ARGV[1] id
-- ARGV[2] unix milliseconds
-- ARGV[3] flow
-- ARGV[4] least time until it is due, ms
-- ARGV[5] further time for each task in the room, ms
-- Returns how many tasks the room holds, and unix seconds at which this one is due.
if redis.call("LREM", KEYS[2], 0, ARGV[1]) == 0 then
	return redis.error_reply("NOT FOUND")
end
redis.call("ZREM", KEYS[3], ARGV[1])
if not redis.call("ZSCORE", KEYS[5], ARGV[1]) then
	local turns = redis.call("HMGET", KEYS[6], "", "f" .. ARGV[3])
	local rank = string.format("%.0f", math.max(tonumber(turns[1] or "0"), tonumber(turns[2] or "0")) + 1)
	redis.call("HSET", KEYS[6], "f" .. ARGV[3], rank)
	redis.call("ZADD", KEYS[5], rank, ARGV[1])
end
local size = redis.call("ZCARD", KEYS[5])
local due = string.format("%.3f", (ARGV[2] + ARGV[4] + size * ARGV[5]) / 1000)
redis.call("ZADD", KEYS[4], due, ARGV[1])
redis.call("HSET", KEYS[1], "state", "scheduled", "room", KEYS[5])
redis.call("HDEL", KEYS[1], "o")
local ttl = string.format("%.0f", 10 * (ARGV[4] + size * ARGV[5]))
redis.call("PEXPIRE", KEYS[5], ttl)
redis.call("PEXPIRE", KEYS[6], ttl)
return {size, due}
