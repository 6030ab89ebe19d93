#!lua flags=no-writes
-- Return how many requests of its session a request waits for.
local session = redis.call('HGET', JOB .. id, 'session')
local ahead = session and redis.call('ZRANK', LINE .. session, id)
return ahead and ahead + 1 or 0
