#!lua
-- Take a place among those that an account may hold. Returns whether there was one.
-- ARGV: the account, the place, how many there may be, and for how long it is held.
local account, place, limit, lease_s = ARGV[4], ARGV[5], tonumber(ARGV[6]), ARGV[7]
local key = PLACES .. account

redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
if redis.call('ZCARD', key) >= limit and not redis.call('ZSCORE', key, place) then
  return 0
end
redis.call('ZADD', key, exact(now + lease_s), place)
redis.call('PEXPIRE', key, math.ceil(lease_s * 1000))
return 1
