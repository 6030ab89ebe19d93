#!lua
-- Admit a request and claim or queue for its session.
-- ARGV: queue limit, session, what to do where it is busy, queue timeout, the idempotency key or
-- '', its fingerprint, its seconds, what its caller may have or '', and the fields of the request.
local queue_limit, session, on_busy = tonumber(ARGV[4]), ARGV[5], ARGV[6]
local queue_timeout, name, fingerprint, key_s = ARGV[7], ARGV[8], ARGV[9], ARGV[10]
local allowance = ARGV[11] ~= '' and cjson.decode(ARGV[11])

if redis.call('EXISTS', JOB .. id) == 1 then
  -- Sent again, since the first answer was lost on the way.
  local is_ready = redis.call('ZSCORE', DUE, id)
  return {'new', is_ready and 1 or 0, {}}
end

local earlier = name ~= '' and replay(name, fingerprint)
if earlier then
  return earlier
end

local interrupted = {}
if on_busy == 'reject' then
  local busy = active(session)
  if busy[1] then
    return {'busy', busy[1]}
  end
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

redis.call('HSET', JOB .. id, unpack(ARGV, 12))
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
if on_busy == 'interrupt' then
  interrupted = active(session)
  for _, other in ipairs(interrupted) do
    if redis.call('HEXISTS', JOB .. other, 'cancel_requested_at') == 0 then
      cancel(other)
    end
  end
end
local is_ready = enter(session, id, on_busy == 'parallel')
return {'new', is_ready and 1 or 0, interrupted}
