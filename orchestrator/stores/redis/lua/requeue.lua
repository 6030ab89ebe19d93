#!lua flags=allow-oom
-- Take a request from whoever runs it, and have it wait for another.
-- ARGV: the run and who claimed it, or '' and '' for one whose lease has run out, how often it may
-- be lost, and the ending of one that was lost too often.
local run, owner, losses_allowed = ARGV[4], ARGV[5], tonumber(ARGV[6])
local ending = {
  status = 'failed',
  reason = 'error',
  payload = ARGV[7],
  error = ARGV[8],
  error_code = ARGV[9],
}
local key = JOB .. id
local job = redis.call(
  'HMGET', key, 'status', 'run', 'cancel_requested_at', 'losses', 'queue_timeout_s', 'owner'
)

if not job[1] then
  return {'missing'}
end
if job[1] ~= 'processing' or (run ~= '' and (job[2] ~= run or job[6] ~= owner)) then
  return unchanged(id)
end
local losses = tonumber(job[4])
if run == '' then
  if tonumber(redis.call('ZSCORE', RUNNING, id) or 0) > tonumber(now) then
    return unchanged(id)
  end
  losses = losses + 1
end
if job[3] or losses >= losses_allowed then
  return changed(id, finish(id, ending))
end

redis.call('HSET', key, 'status', 'pending', 'run', job[2] + 1, 'losses', losses)
redis.call('HDEL', key, 'owner')
redis.call('ZREM', RUNNING, id)
redis.call('ZADD', QUEUED, exact(now + job[5]), id)
make_ready(id)
redis.call('PUBLISH', LOG_CHANNEL .. id, '!')
return changed(id, id)
