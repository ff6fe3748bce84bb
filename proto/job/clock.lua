-- The clock of the server that has the heartbeats.
-- KEYS 1 beats
-- Returns its time in Unix ms.
local t = redis.call('TIME')
return t[1] * 1000 + math.floor(t[2] / 1000)
