#!lua flags=allow-oom
-- Renew leases. ARGV: their seconds, and the id of each request and who claimed it.
-- Returns who claimed those to stop.
local until_when = exact(now + ARGV[4])
local out = {}

for place = 5, #ARGV, 2 do
  local job_id, owner = ARGV[place], ARGV[place + 1]
  local job = redis.call('HMGET', JOB .. job_id, 'status', 'owner', 'cancel_requested_at')
  if job[1] == 'processing' and job[2] == owner then
    redis.call('ZADD', RUNNING, 'XX', until_when, job_id)
  end
  if job[1] ~= 'processing' or job[2] ~= owner or job[3] then
    out[#out + 1] = owner
  end
end
return out
