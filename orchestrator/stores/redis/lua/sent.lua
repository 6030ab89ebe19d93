#!lua flags=allow-oom
-- Note that a request was handed to the dispatcher. Should its message be lost, or wait behind too
-- many others, it is handed over again after a while, and ever more rarely.
local queued_at = redis.call('HGET', JOB .. id, 'queued_at')
if queued_at then
  redis.call('ZADD', DUE, 'XX', exact(now + math.max(SEND_AGAIN_S, now - queued_at)), id)
end
return 'taken'
