#!lua flags=allow-oom
-- Note that a worker is there, even where Redis is full. ARGV: for how many seconds, its models.
for place = 5, #ARGV do
  redis.call('ZADD', WORKERS, exact(now + ARGV[4]), ARGV[place])
end
redis.call('ZREMRANGEBYSCORE', WORKERS, '-inf', now)
redis.call('EXPIRE', WORKERS, ARGV[4])
