#!lua
-- Start a pending request whose turn it is.
-- ARGV: the backend, the same as JSON, who claims, the seconds of the lease, the Started event.
local backend, quoted, owner, lease_s, started = ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local key = JOB .. id
local job = redis.call(
  'HMGET', key,
  'status', 'owner', 'session', 'attempts', 'seq', 'begin', 'created_at', 'started_at'
)

local function claimed()
  local session = job[3]
  return {
    all(id),
    redis.call('HGET', SESSION .. session, 'system'),
    redis.call('LRANGE', TURNS .. session, 0, -1),
    exact(math.max(0, now - redis.call('HGET', key, 'started_at')))
  }
end

if job[1] == 'processing' and job[2] == owner then
  -- Asked again, since the first answer was lost on the way.
  return claimed()
end
if job[1] ~= 'pending' or redis.call('ZSCORE', LINE .. job[3], id) then
  return false
end

local attempts, seq = job[4] + 1, tonumber(job[5])
unqueue(id)
redis.call('ZADD', RUNNING, exact(now + lease_s), id)
redis.call(
  'HSET', key, 'status', 'processing', 'backend', backend, 'owner', owner, 'attempts', attempts
)
if not job[8] then
  redis.call('HSET', key, 'started_at', exact(math.max(now, job[7])))
end
if seq == 0 then
  add_event(id, started)
elseif seq - job[6] > 1 then
  restart(id, attempts, quoted)
else
  redis.call('PUBLISH', LOG_CHANNEL .. id, '!')
end
return claimed()
