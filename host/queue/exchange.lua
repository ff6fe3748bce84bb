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

local out, most = {}, tonumber(ARGV[3])
if most == 0 or redis.call("EXISTS", KEYS[2]) == 1 then
	return out
end
local taken, leases = {}, {}
while #taken < most do
	local ids = redis.call("LRANGE", KEYS[1], #taken - most, -1) -- the oldest are at the tail here, too
	if #ids == 0 then
		break
	end
	redis.call("LTRIM", KEYS[1], 0, -#ids - 1)
	for i = #ids, 1, -1 do
		local id = ids[i]
		local key = ARGV[2] .. id
		local msg = redis.call("HGET", key, "msg")
		if msg then -- else its record is gone: nothing to run
			-- asynq deletes pending_since as well. Of an active task nobody looks at
			-- it, and one that goes back has waited since then.
			redis.call("HSET", key, "state", "active", "o", ARGV[4])
			taken[#taken + 1] = id
			leases[#leases + 1] = ARGV[1]
			leases[#leases + 1] = id
			out[#out + 1] = id
			out[#out + 1] = msg
		end
	end
end
if #taken > 0 then
	redis.call("LPUSH", KEYS[3], unpack(taken))
	redis.call("ZADD", KEYS[4], unpack(leases))
end
return out
