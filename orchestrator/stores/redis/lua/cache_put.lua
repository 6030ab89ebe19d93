#!lua
-- Keep an answer; the least recently used make room for it.
-- ARGV: its key, the answer, its seconds, the limit in bytes, what an entry costs beside its bytes.
local key, packed, seconds, limit = ARGV[4], ARGV[5], ARGV[6], tonumber(ARGV[7])
local size = #packed + ARGV[8]
-- How many may go for one: Redis does nothing else meanwhile.
local MOST = 1000

drop_answer(key)
for _, old in ipairs(redis.call('ZRANGEBYSCORE', CACHE_UNTIL, '-inf', now, 'LIMIT', 0, MOST)) do
  drop_answer(old)
end
local total = tonumber(redis.call('GET', CACHE_TOTAL) or 0)
if size <= limit and total + size > limit then
  for _, old in ipairs(redis.call('ZRANGE', CACHE_USED, 0, MOST - 1)) do
    drop_answer(old)
    total = tonumber(redis.call('GET', CACHE_TOTAL))
    if total + size <= limit then
      break
    end
  end
end
if total + size <= limit then
  redis.call('SET', CACHED .. key, packed, 'PX', math.max(1, math.ceil(seconds * 1000)))
  redis.call('HSET', CACHE_SIZES, key, size)
  redis.call('ZADD', CACHE_USED, redis.call('INCR', COUNT), key)
  redis.call('ZADD', CACHE_UNTIL, exact(now + seconds), key)
  redis.call('INCRBY', CACHE_TOTAL, size)
end
