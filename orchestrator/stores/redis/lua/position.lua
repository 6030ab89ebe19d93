#!lua flags=no-writes
-- Return how many requests a ready one has ahead of it. ARGV: its priority, and those above it.
local ahead = redis.call('ZRANK', WAIT .. ARGV[4], id)
if not ahead then
  return 0
end
for place = 5, #ARGV do
  ahead = ahead + redis.call('ZCARD', WAIT .. ARGV[place])
end
return ahead
