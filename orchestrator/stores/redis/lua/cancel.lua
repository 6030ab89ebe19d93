#!lua flags=allow-oom
-- Ask a request to stop: a pending one ends at once.
local job = redis.call('HMGET', JOB .. id, 'status', 'cancel_requested_at')

if not job[1] then
  return {'missing'}
end
if not is_live(job[1]) or job[2] then
  return unchanged(id)
end
return changed(id, cancel(id))
