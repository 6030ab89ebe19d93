#!lua
-- Append tokens to the log of a running request.
-- ARGV: who claimed it, the seq of the first token, how many there are, how many seconds ago the first
-- one came, all as JSON, as text, the size that a log may have.
local owner, first, count = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local age_s, tokens, text, limit = ARGV[7], ARGV[8], ARGV[9], tonumber(ARGV[10])
local key = JOB .. id
local job = redis.call(
  'HMGET', key,
  'status', 'owner', 'cancel_requested_at', 'seq', 'begin', 'size', 'first_token_at'
)
local seq, begin, size = tonumber(job[4]), job[5], tonumber(job[6])

if job[1] ~= 'processing' or job[2] ~= owner or first > seq then
  return 'gone'
end
if first < seq then
  -- Sent again, since the first answer was lost on the way.
  return 'taken'
end
if job[3] then
  return 'stop'
end
if size + #tokens > limit then
  return 'full'
end

redis.call(
  'XADD', LOG .. id, string.format('%d-0', seq + count), 'n', count, 'b', begin, 't', tokens
)
redis.call('APPEND', TEXT .. id, text)
redis.call('HSET', key, 'seq', seq + count, 'size', size + #tokens)
if not job[7] then
  redis.call('HSET', key, 'first_token_at', exact(now - age_s))
end
redis.call('PUBLISH', LOG_CHANNEL .. id, string.format('%d %d %d ', seq, count, begin) .. tokens)
return 'taken'
