#!lua
-- Note that another attempt of a running request begins, and with a restart, that what was said
-- is void.
-- ARGV: who claimed it, the seq that a restart has or '' for none, the attempt, the backend or '', the
-- same as JSON.
local owner, first, number, backend, quoted = ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local key = JOB .. id
local job = redis.call('HMGET', key, 'status', 'owner', 'cancel_requested_at', 'seq')

if job[1] ~= 'processing' or job[2] ~= owner then
  return 'gone'
end
if first ~= '' and tonumber(first) > tonumber(job[4]) then
  return 'gone'
end
if first ~= '' and tonumber(first) < tonumber(job[4]) then
  return 'taken'
end
if job[3] then
  return 'stop'
end
redis.call('HSET', key, 'attempts', number)
if backend ~= '' then
  redis.call('HSET', key, 'backend', backend)
end
if first ~= '' then
  restart(id, number, quoted)
else
  redis.call('PUBLISH', LOG_CHANNEL .. id, '!')
end
return 'taken'
