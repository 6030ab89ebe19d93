#!lua flags=allow-oom
-- Forget what is past its time. ARGV: how many of each kind at most.
-- Returns how many were forgotten, and the requests that are late, lost (their ids), and to be
-- sent again.
local limit = tonumber(ARGV[4])

local function due(key, moment)
  return redis.call('ZRANGE', key, '-inf', moment, 'BYSCORE', 'LIMIT', 0, limit)
end

-- The same of live requests. One that Redis has dropped, which it may where it isn't set to refuse
-- instead, is taken out of all queues: it would be late for ever, and keep others from their turn.
local function due_requests(key, moment)
  local found = {}
  for _, job_id in ipairs(due(key, moment)) do
    if redis.call('EXISTS', JOB .. job_id) == 1 then
      found[#found + 1] = job_id
    else
      forget(job_id)
      for _, queue in ipairs({QUEUED, DUE, RUNNING}) do
        redis.call('ZREM', queue, job_id)
      end
      for _, priority in ipairs(PRIORITIES) do
        redis.call('ZREM', WAIT .. priority, job_id)
      end
    end
  end
  return found
end

local expired = due(ENDED, now)
for _, job_id in ipairs(expired) do
  forget(job_id)
end
local idle = due(IDLE, exact(now - retention))
for _, session in ipairs(idle) do
  forget_session(session)
end
local late = {}
for _, job_id in ipairs(due_requests(QUEUED, now)) do
  late[#late + 1] = redis.call('HMGET', JOB .. job_id, unpack(READ))
end
local unsent = {}
for _, job_id in ipairs(due_requests(DUE, now)) do
  local late_at = redis.call('ZSCORE', QUEUED, job_id)
  redis.call('ZADD', DUE, exact(now + SEND_S), job_id)
  if late_at and tonumber(late_at) > tonumber(now) then
    unsent[#unsent + 1] = redis.call('HMGET', JOB .. job_id, unpack(READ))
  end
end
return {math.max(#expired, #idle), late, due_requests(RUNNING, now), unsent}
