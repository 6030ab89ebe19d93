#!lua
-- Admit a request and claim or queue for its session.
-- ARGV: until when its caller waits, queue limit, session, what to do where it is busy, queue
-- timeout, the idempotency key or '', its fingerprint, its seconds, what its caller may have or '',
-- and the fields of the request.
-- Returns 'many' where it would interrupt too many at once: see interrupt.lua.
local until_s, queue_limit = tonumber(ARGV[4]), tonumber(ARGV[5])
local session, on_busy = ARGV[6], ARGV[7]
local queue_timeout, name, fingerprint, key_s = ARGV[8], ARGV[9], ARGV[10], ARGV[11]
local allowance = ARGV[12] ~= '' and cjson.decode(ARGV[12])

if redis.call('EXISTS', JOB .. id) == 1 then
  -- Sent again, since the first answer was lost on the way.
  local is_ready = redis.call('ZSCORE', DUE, id)
  return {'new', is_ready and 1 or 0, {}}
end

local time = redis.call('TIME')
if time[1] + time[2] / 1000000 > until_s then
  -- Who sent it was told that it can't be taken.
  return {'late'}
end

local earlier = name ~= '' and replay(name, fingerprint)
if earlier then
  return earlier
end

drop_lost(session)
local interrupted = {}
if on_busy == 'reject' then
  local busy = redis.call('HGET', SESSION .. session, 'current')
    or redis.call('ZRANGE', BESIDE .. session, 0, 0)[1]
  if busy then
    return {'busy', busy}
  end
end
if is_filled() then
  return {'filled'}
end
local freed = on_busy == 'interrupt' and waiting(session) or {}
if redis.call('ZCARD', QUEUED) - #freed >= queue_limit then
  return {'full'}
end
if allowance then
  local refusal = check(allowance, session, freed)
  if refusal then
    return refusal
  end
end
if on_busy == 'interrupt' then
  if #stoppable(session, INTERRUPT_STEP + 1) > INTERRUPT_STEP then
    return {'many'}
  end
  interrupted = active(session)
end

redis.call('HSET', JOB .. id, unpack(ARGV, 13))
owe(1, redis.call('HSTRLEN', JOB .. id, 'prompt'))
if allowance then
  take(id, allowance)
end
local tenant = tenant_of(session)
if tenant ~= '' then
  redis.call('HSET', OWNERS, id, tenant)
end
redis.call('ZADD', list_of(JOBS, tenant), 0, id)
redis.call('ZADD', QUEUED, exact(now + queue_timeout), id)
if name ~= '' then
  local key = IDEMPOTENCY .. name
  redis.call(
    'HSET', key,
    'fingerprint', fingerprint, 'id', id, 'session', session, 'expires_at', exact(now + key_s)
  )
  redis.call('PEXPIRE', key, math.ceil(key_s * 1000))
end
for _, other in ipairs(interrupted) do
  stop(session, other)
end
local is_ready = enter(session, id, on_busy == 'parallel')
return {'new', is_ready and 1 or 0, interrupted}
