#!lua flags=allow-oom
-- Renew leases. ARGV: their seconds, and the id and run of each request.
-- Returns the id and run of those to stop.
local until_when = exact(now + ARGV[4])
local out = {}

for place = 5, #ARGV, 2 do
  local job_id, run = ARGV[place], ARGV[place + 1]
  local job = redis.call('HMGET', JOB .. job_id, 'status', 'run', 'cancel_requested_at')
  if job[1] == 'processing' and job[2] == run then
    redis.call('ZADD', RUNNING, 'XX', until_when, job_id)
  end
  if job[1] ~= 'processing' or job[2] ~= run or job[3] then
    out[#out + 1] = {job_id, run}
  end
end
return out
