#!lua flags=allow-oom
-- Note that a request was handed to the dispatcher. Should its message be lost, it is sent again
-- after a long while.
redis.call('ZADD', DUE, 'XX', exact(now + SEND_AGAIN_S), id)
return 'taken'
