#!lua flags=allow-oom
-- Note that a ready request was handed on, and when it is to be handed on again should nobody have
-- begun it by then: ever more rarely.
-- ARGV: after how many seconds at least, and how much its wait has to have grown, as a share of it.
local least, share = tonumber(ARGV[4]), tonumber(ARGV[5])
local ready_at = redis.call('HGET', JOB .. id, 'ready_at')
if ready_at then
  redis.call('ZADD', DUE, 'XX', exact(now + math.max(least, share * (now - ready_at))), id)
end
return 'taken'
