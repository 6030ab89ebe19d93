-- What several scripts share. Every script is called with the id of a request (or '' where it is
-- about none), the time (or '' for Redis's own), and the seconds that what has ended is kept.
local id, now, retention = ARGV[1], ARGV[2], ARGV[3]

if now == '' then
  local time = redis.call('TIME')
  now = string.format('%d.%06d', time[1], time[2])
end

-- Lua would round a time to tenths of milliseconds.
local function exact(number)
  return string.format('%.17g', number)
end

-- Whose a session is, by its name: what is before the first slash.
local function tenant_of(session)
  return session:match('^([^/]*)/') or ''
end

-- The list of one tenant; that of nobody in particular has the plain name.
local function list_of(key, tenant)
  return tenant == '' and key or key .. ':' .. tenant
end

-- Whether so much room is taken that the rest is kept for what was accepted to end in.
local function is_filled()
  local memory = redis.call('INFO', 'memory')
  local function number(name)
    return tonumber(memory:match('\n' .. name .. ':(%d+)') or 0)
  end
  local most = number('maxmemory')
  if most == 0 or not memory:find('maxmemory_policy:noeviction', 1, true) then
    return false
  end
  local used = number('used_memory') - number('mem_not_counted_for_evict')
  return used + tonumber(redis.call('GET', OWED) or 0) > FILLED * most
end

-- Count, for 1 or -1 requests, what one takes once it runs and ends: its log, and its prompt once
-- more in its session, with what Redis rounds up.
local function owe(requests, prompt_bytes)
  local bytes = requests * (END_BYTES + math.ceil(prompt_bytes * 1.25))
  if redis.call('INCRBY', OWED, bytes) <= 0 then
    redis.call('DEL', OWED)
  end
end

local function all(job_id)
  return redis.call('HGETALL', JOB .. job_id)
end

local function expire(key)
  redis.call('PEXPIRE', key, math.max(1, math.ceil(retention * 1000)))
end

-- Have a request whose turn it is wait for a worker. One that comes back has its old place.
local function make_ready(job_id)
  local job = redis.call('HMGET', JOB .. job_id, 'priority', 'place')
  local place = job[2]
  if not place then
    place = redis.call('INCR', COUNT)
    redis.call('HSET', JOB .. job_id, 'place', place)
  end
  redis.call('HSET', JOB .. job_id, 'ready_at', now)
  redis.call('ZADD', WAIT .. job[1], place, job_id)
  redis.call('ZADD', DUE, exact(now + SEND_S), job_id)
end

-- Take a request out of all queues.
local function unqueue(job_id)
  redis.call('ZREM', QUEUED, job_id)
  redis.call('ZREM', DUE, job_id)
  redis.call('ZREM', WAIT .. redis.call('HGET', JOB .. job_id, 'priority'), job_id)
end

-- Append an event that is no token; what follows it is counted from chunk 0.
local function add_event(job_id, payload)
  local seq = redis.call('HGET', JOB .. job_id, 'seq')
  redis.call('XADD', LOG .. job_id, string.format('%d-0', seq + 1), 'e', payload)
  redis.call('HSET', JOB .. job_id, 'seq', seq + 1, 'begin', seq)
  redis.call('PUBLISH', LOG_CHANNEL .. job_id, '!')
end

local function restart(job_id, attempt, backend)
  redis.call('DEL', TEXT .. job_id)
  add_event(
    job_id,
    '{"type":"restarted","attempt":' .. attempt .. ',"backend":' .. backend .. '}'
  )
end

-- What an idempotency key stands for, and whether it came with the same body; nothing if neither.
local function replay(name, fingerprint)
  local key = redis.call('HMGET', IDEMPOTENCY .. name, 'fingerprint', 'id', 'session', 'expires_at')
  if not key[1] or tonumber(key[4]) <= tonumber(now) then
    return false
  end
  return {key[1] == fingerprint and 'replayed' or 'reused', key[2], key[3]}
end

-- Sessions

local function active(session)
  local ids = redis.call('ZRANGE', LINE .. session, 0, -1)
  local current = redis.call('HGET', SESSION .. session, 'current')
  if current then
    table.insert(ids, 1, current)
  end
  for _, beside in ipairs(redis.call('ZRANGE', BESIDE .. session, 0, -1)) do
    ids[#ids + 1] = beside
  end
  return ids
end

-- Those of a session that an interrupt ends at once: their places are free.
local function waiting(session)
  local ids = redis.call('ZRANGE', LINE .. session, 0, -1)
  local others = redis.call('ZRANGE', BESIDE .. session, 0, -1)
  others[#others + 1] = redis.call('HGET', SESSION .. session, 'current') or nil
  for _, other in ipairs(others) do
    if redis.call('HGET', JOB .. other, 'status') == 'pending' then
      ids[#ids + 1] = other
    end
  end
  return ids
end

local function use(session)
  local list = list_of(SESSIONS, tenant_of(session))
  -- Numbered by tenant: a cursor shows the number, and is to tell nothing of others.
  redis.call('ZREM', list, session)
  local last = redis.call('ZRANGE', list, 0, 0, 'REV', 'WITHSCORES')[2] or 0
  redis.call('ZADD', list, last + 1, session)
  redis.call('HSET', SESSION .. session, 'last_used_at', now)
end

-- Note the end of a request. Returns the one whose turn it is now, where that changed.
local function leave(session, job_id)
  local following = false
  use(session)
  if redis.call('HGET', SESSION .. session, 'current') == job_id then
    following = redis.call('ZPOPMIN', LINE .. session)[1] or false
    if following then
      redis.call('HSET', SESSION .. session, 'current', following)
      make_ready(following)
    else
      redis.call('HDEL', SESSION .. session, 'current')
    end
  else
    redis.call('ZREM', LINE .. session, job_id)
    redis.call('ZREM', BESIDE .. session, job_id)
  end
  local is_busy = redis.call('HEXISTS', SESSION .. session, 'current') == 1
  if not is_busy and redis.call('EXISTS', BESIDE .. session) == 0 then
    redis.call('ZADD', IDLE, now, session)
    expire(SESSION .. session)
    expire(TURNS .. session)
  end
  return following
end

-- A request that Redis has dropped, which it may where it isn't set to refuse instead, would keep
-- its session for ever.
local function drop_lost(session)
  local current = redis.call('HGET', SESSION .. session, 'current')
  if current and redis.call('EXISTS', JOB .. current) == 0 then
    leave(session, current)
  end
end

-- Note a new request of a session. Returns whether it may run at once.
local function enter(session, job_id, parallel)
  redis.call('HSETNX', SESSION .. session, 'v', VERSION)
  redis.call('HSETNX', SESSION .. session, 'created_at', now)
  redis.call('ZREM', IDLE, session)
  redis.call('PERSIST', SESSION .. session)
  redis.call('PERSIST', TURNS .. session)
  use(session)
  if redis.call('HSETNX', SESSION .. session, 'current', job_id) == 0 then
    local place = redis.call('INCR', COUNT)
    redis.call('ZADD', (parallel and BESIDE or LINE) .. session, place, job_id)
    if not parallel then
      return false
    end
  end
  make_ready(job_id)
  return true
end

local function remember(session, prompt, system, answer)
  local turns = TURNS .. session
  local count = redis.call('RPUSH', turns, prompt, answer)
  local bytes = redis.call('HINCRBY', SESSION .. session, 'bytes', #prompt + #answer)
  while count > HISTORY_MESSAGES or bytes > HISTORY_BYTES do
    local dropped = redis.call('LPOP', turns, 2)
    bytes = redis.call('HINCRBY', SESSION .. session, 'bytes', -#dropped[1] - #dropped[2])
    count = count - 2
  end
  if system and system ~= '' then
    redis.call('HSET', SESSION .. session, 'system', system)
  end
end

-- Allowances: what callers may have, taken with the submit and given back with the end

-- How many of the requests that an account is counted for are looked at: one may be lost.
local LOOK_AT = 100

local function is_live(status)
  return status == 'pending' or status == 'processing'
end

local function tokens_of(size)
  return math.ceil(size / TOKEN_BYTES)
end

local function spent_key(name, day)
  return SPENT .. day .. ':' .. name
end

local function is_crowded(allowance, freed)
  local key = LIVE .. allowance.account
  local most = allowance.live
  for _, other in ipairs(freed) do
    most = most + redis.call('SISMEMBER', key, other)
  end
  if allowance.live == 0 or redis.call('SCARD', key) < most then
    return false
  end
  for _, other in ipairs(redis.call('SRANDMEMBER', key, LOOK_AT)) do
    if not is_live(redis.call('HGET', JOB .. other, 'status')) then
      redis.call('SREM', key, other)
    end
  end
  return redis.call('SCARD', key) >= most
end

-- How many tokens of a day requests have reserved that never began, by the name of the budget.
local function reserved_by(freed, day)
  local tokens = {}
  for _, other in ipairs(freed) do
    local job = redis.call('HMGET', JOB .. other, 'allowance', 'attempts')
    local taken = job[1] and tonumber(job[2]) == 0 and cjson.decode(job[1])
    if taken and taken.day == day then
      for _, name in ipairs(taken.names) do
        tokens[name] = (tokens[name] or 0) + taken.reserved
      end
    end
  end
  return tokens
end

-- Return why an account may not have one more request, or nothing; note what it would reserve.
-- What those freed hold, which this one ends at once, counts as given back.
local function check(allowance, session, freed)
  if is_crowded(allowance, freed) then
    return {'crowded'}
  end
  if #allowance.names == 0 then
    return nil
  end
  allowance.day = math.floor(now / DAY_S)
  allowance.input = allowance.input
    + tokens_of(tonumber(redis.call('HGET', SESSION .. session, 'bytes') or 0))
  allowance.reserved = allowance.input + allowance.answer
  local given_back = reserved_by(freed, allowance.day)
  for place, name in ipairs(allowance.names) do
    local spent = tonumber(redis.call('GET', spent_key(name, allowance.day)) or 0)
    spent = spent - (given_back[name] or 0)
    if spent + allowance.reserved > allowance.limits[place] then
      local left = exact((allowance.day + 1) * DAY_S - now)
      return {'spent', place, spent, allowance.reserved, left}
    end
  end
end

local function spend(name, day, tokens)
  local key = spent_key(name, day)
  redis.call('INCRBY', key, tokens)
  redis.call('EXPIRE', key, 2 * DAY_S)
end

local function take(job_id, allowance)
  redis.call('HSET', JOB .. job_id, 'allowance', cjson.encode(allowance))
  if allowance.live > 0 then
    redis.call('SADD', LIVE .. allowance.account, job_id)
    redis.call('EXPIRE', LIVE .. allowance.account, DAY_S)
  end
  for _, name in ipairs(allowance.names) do
    spend(name, allowance.day, allowance.reserved)
  end
end

local function is_said(usage)
  return usage and usage ~= ''
end

local function total(usage)
  if not is_said(usage) then
    return 0
  end
  local counted = cjson.decode(usage)
  return counted[1] + counted[2]
end

-- What an ended request has cost: what was reported, or what its texts are taken for.
local function cost(attempts, ending, usage, input, answer)
  if tonumber(attempts) == 0 then
    return 0
  end
  local reported = total(usage) + total(ending.failed_usage)
  -- Whose time limit ends a silence may have had its model think all the while.
  local is_broken = ending.status == 'failed' and ending.error_code ~= DEADLINE_EXCEEDED
  if is_said(usage) or (is_broken and answer == '') then
    return reported
  end
  local guessed = input + tokens_of(#answer)
  if ending.status == 'completed' then
    return reported + guessed
  end
  -- Of an answer that broke off its provider may have said no more than how it began.
  return math.max(reported, guessed)
end

-- Count what an ended request has used in place of what it might have.
local function settle(job_id, taken, attempts, ending, usage, answer)
  local allowance = cjson.decode(taken)
  redis.call('SREM', LIVE .. allowance.account, job_id)
  for _, name in ipairs(allowance.names) do
    local used = cost(attempts, ending, usage, allowance.input, answer)
    spend(name, allowance.day, used - allowance.reserved)
  end
end

-- Ends

-- End a live request. Returns the one whose turn it is now, where that changed.
local function finish(job_id, ending)
  local key = JOB .. job_id
  local job = redis.call(
    'HMGET', key,
    'session', 'prompt', 'system', 'cancel_requested_at', 'allowance', 'attempts'
  )
  local answer = redis.call('GET', TEXT .. job_id) or ''
  local usage = ending.usage
  if job[4] then
    ending = {
      status = 'cancelled',
      reason = 'cancelled',
      payload = ending.cancelled or CANCELLED,
      failed_usage = ending.failed_usage,
    }
  end
  local expires_at = exact(now + retention)
  redis.call(
    'HSET', key,
    'status', ending.status,
    'finish_reason', ending.reason,
    'completed_at', now,
    'expires_at', expires_at
  )
  for _, name in ipairs({'usage', 'failed_usage', 'error', 'error_code', 'error_stage'}) do
    if ending[name] and ending[name] ~= '' then
      redis.call('HSET', key, name, ending[name])
    end
  end
  if ending.status == 'completed' or (ending.status == 'cancelled' and answer ~= '') then
    redis.call('HSET', key, 'result', answer)
  end
  if job[5] then
    settle(job_id, job[5], job[6], ending, usage, answer)
  end
  redis.call('DEL', TEXT .. job_id)
  owe(-1, #(job[2] or ''))
  unqueue(job_id)
  redis.call('ZREM', RUNNING, job_id)
  redis.call('ZADD', ENDED, expires_at, job_id)
  add_event(job_id, ending.payload)
  -- A stream is given 4 KiB ahead; its copy has what it needs.
  redis.call('COPY', LOG .. job_id, TEXT .. job_id)
  redis.call('RENAME', TEXT .. job_id, LOG .. job_id)
  redis.call('PUBLISH', END_CHANNEL .. job_id, '!')
  expire(key)
  expire(LOG .. job_id)
  if ending.status == 'completed' then
    remember(job[1], job[2], job[3], answer)
  end
  return leave(job[1], job_id)
end

-- Ask a live request to stop: a pending one ends at once. Returns the one whose turn it is now.
local function cancel(job_id)
  redis.call('HSET', JOB .. job_id, 'cancel_requested_at', now)
  if redis.call('HGET', JOB .. job_id, 'status') == 'pending' then
    return finish(job_id, {})
  end
  redis.call('PUBLISH', STOP_CHANNEL, job_id)
  redis.call('PUBLISH', LOG_CHANNEL .. job_id, '!')
  return false
end

-- Up to `most` requests of a session that have not been asked to stop and wait in its line, its end
-- first, or run beside.
local function stoppable(session, most)
  local ids = redis.call('ZRANGE', LINE .. session, 0, most - 1, 'REV')
  if #ids < most then
    for _, beside in ipairs(redis.call('ZRANGE', BESIDE .. session, 0, -1)) do
      if redis.call('HEXISTS', JOB .. beside, 'cancel_requested_at') == 0 then
        ids[#ids + 1] = beside
        if #ids == most then
          break
        end
      end
    end
  end
  return ids
end

-- Have a request of a session stop, whatever it does.
local function stop(session, job_id)
  local job = redis.call('HMGET', JOB .. job_id, 'status', 'cancel_requested_at')
  if not job[1] then
    leave(session, job_id)
  elseif not job[2] then
    cancel(job_id)
  end
end

local function forget_session(session)
  redis.call('UNLINK', SESSION .. session, TURNS .. session)
  redis.call('ZREM', list_of(SESSIONS, tenant_of(session)), session)
  redis.call('ZREM', IDLE, session)
end

local function forget(job_id)
  redis.call('UNLINK', JOB .. job_id, LOG .. job_id, TEXT .. job_id)
  local tenant = redis.call('HGET', OWNERS, job_id) or ''
  redis.call('ZREM', list_of(JOBS, tenant), job_id)
  redis.call('HDEL', OWNERS, job_id)
  redis.call('ZREM', ENDED, job_id)
end

-- What a change is answered with: the request, and the one that may run now.
local function changed(job_id, following)
  return {'changed', all(job_id), following and all(following) or {}}
end

local function unchanged(job_id)
  return {'unchanged', all(job_id), {}}
end

-- Kept answers

local function drop_answer(key)
  local size = redis.call('HGET', CACHE_SIZES, key)
  if size then
    redis.call('DEL', CACHED .. key)
    redis.call('HDEL', CACHE_SIZES, key)
    redis.call('ZREM', CACHE_USED, key)
    redis.call('ZREM', CACHE_UNTIL, key)
    redis.call('DECRBY', CACHE_TOTAL, size)
  end
end
