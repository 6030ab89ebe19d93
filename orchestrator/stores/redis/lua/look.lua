#!lua flags=allow-oom
-- Say which models workers have that were there lately, and whether the rest of the room is kept
-- for what was accepted. It writes nothing and says that it might: a Redis that takes no writes
-- refuses it.
return {redis.call('ZRANGE', WORKERS, '(' .. now, '+inf', 'BYSCORE'), is_filled() and 1 or 0}
