#!lua flags=allow-oom
-- Return a kept answer, and note its use. ARGV: its key.
local key = ARGV[4]
local until_when = redis.call('ZSCORE', CACHE_UNTIL, key)
if not until_when or tonumber(until_when) <= tonumber(now) then
  drop_answer(key)
  return false
end
redis.call('ZADD', CACHE_USED, 'XX', redis.call('INCR', COUNT), key)
return redis.call('GET', CACHED .. key)
