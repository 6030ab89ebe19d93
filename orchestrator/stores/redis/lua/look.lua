#!lua flags=allow-oom
-- Say whether a worker was there lately, and whether the rest of the room is kept for what was
-- accepted. It writes nothing and says that it might: a Redis that takes no writes refuses it.
return {redis.call('EXISTS', WORKER), is_filled() and 1 or 0}
