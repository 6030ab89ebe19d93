#!lua flags=no-writes
-- Return what lists show of a session: its version and times, how many messages it has, its live
-- requests. ARGV: its id.
local session = ARGV[4]
return {
  redis.call('HMGET', SESSION .. session, 'v', 'created_at', 'last_used_at'),
  redis.call('LLEN', TURNS .. session),
  active(session),
}
