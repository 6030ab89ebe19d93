#!lua
-- Keep a stream token, and forget the oldest of those who have asked for too many.
-- ARGV: who has asked, the token's digest, its value, for how many seconds, how many may wait.
local list, digest, seconds = TICKETS .. ARGV[4], ARGV[5], ARGV[7]

redis.call('SET', TICKET .. digest, ARGV[6], 'EX', seconds)
redis.call('RPUSH', list, digest)
redis.call('EXPIRE', list, seconds)
if redis.call('LLEN', list) > tonumber(ARGV[8]) then
  redis.call('DEL', TICKET .. redis.call('LPOP', list))
end
