#!lua flags=allow-oom
-- Note that a worker is there, even where Redis is full. ARGV: for how many seconds.
redis.call('SET', WORKER, 1, 'EX', ARGV[4])
