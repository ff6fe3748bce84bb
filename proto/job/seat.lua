-- Say how many sockets of a user one gateway has, if the user may have so many over all gateways.
-- KEYS 1 seats (hash: gateway -> sockets)
-- ARGV 1 gateway, 2 its sockets of the user (0: none any more), 3 most over all gateways (0 is no limit), 4 ttl ms,
--      5… gateways that are gone: their sockets are forgotten
-- Returns {'ok'} or {'full', the other gateways that have some…}; then nothing was changed but what is forgotten.
for i = 5, #ARGV do
  redis.call('HDEL', KEYS[1], ARGV[i])
end
local mine, most = tonumber(ARGV[2]), tonumber(ARGV[3])
if mine == 0 then
  redis.call('HDEL', KEYS[1], ARGV[1])
  return {'ok'}
end
if most > 0 then
  local all, sum, others = redis.call('HGETALL', KEYS[1]), mine, {'full'}
  for i = 1, #all, 2 do
    if all[i] ~= ARGV[1] then
      sum = sum + tonumber(all[i + 1])
      others[#others + 1] = all[i]
    end
  end
  if sum > most then
    return others
  end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return {'ok'}
