#!lua flags=allow-oom
-- Note that a request was handed to the dispatcher. Should its message be lost, or wait behind too
-- many others, it is handed over again after a while, and ever more rarely.
local created_at = redis.call('HGET', JOB .. id, 'created_at')
if created_at then
  redis.call('ZADD', DUE, 'XX', exact(now + math.max(SEND_AGAIN_S, now - created_at)), id)
end
return 'taken'
