#!lua flags=no-writes
-- List the ids of sessions with the number of their last use, last used first.
-- ARGV: the number before which to begin, how many, whose they are.
local list = list_of(SESSIONS, ARGV[6])
return redis.call(
  'ZRANGE', list, '(' .. ARGV[4], '-inf', 'BYSCORE', 'REV', 'LIMIT', 0, ARGV[5], 'WITHSCORES'
)
