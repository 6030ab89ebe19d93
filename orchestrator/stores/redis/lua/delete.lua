#!lua flags=allow-oom
-- Forget an ended request. Returns its status until now.
local status = redis.call('HGET', JOB .. id, 'status')
if status and not is_live(status) then
  forget(id)
  redis.call('PUBLISH', LOG_CHANNEL .. id, '!')
end
return status
