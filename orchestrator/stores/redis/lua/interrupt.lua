#!lua flags=allow-oom
-- Ask some of the many requests of a session to stop: what waits in line, its end first, and what
-- runs beside. ARGV: the session. Returns who was asked.
local session = ARGV[4]
drop_lost(session)
local others = stoppable(session, INTERRUPT_STEP)
for _, other in ipairs(others) do
  stop(session, other)
end
return others
