#!lua flags=no-writes
-- Return a session: its hash, its turns, its live requests. ARGV: its id.
local session = ARGV[4]
return {
  redis.call('HGETALL', SESSION .. session),
  redis.call('LRANGE', TURNS .. session, 0, -1),
  active(session),
}
