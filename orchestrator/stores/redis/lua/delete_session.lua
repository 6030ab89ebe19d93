#!lua flags=allow-oom
-- Forget an idle session. ARGV: its id. Returns its live requests; nothing where there is none.
local session = ARGV[4]
if redis.call('EXISTS', SESSION .. session) == 0 then
  return false
end
local busy = active(session)
if not busy[1] then
  forget_session(session)
end
return busy
