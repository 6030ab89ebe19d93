#!lua
-- Hold places for a while longer, and note that a process is there. Returns how many there are.
-- ARGV: the process, for how long, and account and place by turns.
local process, lease_s = ARGV[4], ARGV[5]

for place = 6, #ARGV, 2 do
  local key = PLACES .. ARGV[place]
  redis.call('ZADD', key, exact(now + lease_s), ARGV[place + 1])
  redis.call('PEXPIRE', key, math.ceil(lease_s * 1000))
end
redis.call('ZADD', PROCESSES, exact(now + lease_s), process)
redis.call('ZREMRANGEBYSCORE', PROCESSES, '-inf', now)
redis.call('PEXPIRE', PROCESSES, math.ceil(lease_s * 1000))
return redis.call('ZCARD', PROCESSES)
