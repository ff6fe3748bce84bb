-- Extends leases that still exist. The same as ZADD XX, but allowed while Redis
-- is out of memory (it changes scores, it adds nothing).
--
-- KEYS[1] asynq:{q}:lease  zset, score = unix seconds
-- ARGV    score, id, score, id, …
-- Returns 0, as ZADD XX does.
for i = 1, #ARGV, 2 do
	redis.call("ZADD", KEYS[1], "XX", ARGV[i], ARGV[i + 1])
end
return 0
