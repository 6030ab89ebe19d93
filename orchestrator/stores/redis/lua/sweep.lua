#!lua flags=allow-oom
-- Forget what is past its time. ARGV: how many of each kind at most.
-- Returns how many were forgotten, and the requests that are late, lost (their ids), and to be
-- sent again.
local limit = tonumber(ARGV[4])

local function due(key, moment)
  return redis.call('ZRANGE', key, '-inf', moment, 'BYSCORE', 'LIMIT', 0, limit)
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
for _, job_id in ipairs(due(QUEUED, now)) do
  late[#late + 1] = all(job_id)
end
local unsent = {}
for _, job_id in ipairs(due(DUE, now)) do
  local late_at = redis.call('ZSCORE', QUEUED, job_id)
  redis.call('ZADD', DUE, exact(now + SEND_S), job_id)
  if late_at and tonumber(late_at) > tonumber(now) then
    unsent[#unsent + 1] = all(job_id)
  end
end
return {math.max(#expired, #idle), late, due(RUNNING, now), unsent}
