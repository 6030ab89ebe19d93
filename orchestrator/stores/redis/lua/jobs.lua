#!lua flags=no-writes
-- List requests, newest first. ARGV: the id before which to begin or '', how many, the status or
-- '', the session or '', how many to look at, whose they are, how many bytes of results to find.
-- Returns the last id looked at, whether others follow, the ids of the requests, and how many
-- bytes their results are.
local cursor, limit, status, session, scan, most =
  ARGV[4], tonumber(ARGV[5]), ARGV[6], ARGV[7], tonumber(ARGV[8]), tonumber(ARGV[10])
local from = cursor == '' and '+' or '(' .. cursor
local list = list_of(JOBS, ARGV[9])
local ids = redis.call('ZRANGE', list, from, '-', 'BYLEX', 'REV', 'LIMIT', 0, scan + 1)
local found, size, seen = {}, 0, 0

while seen < #ids and seen < scan and #found < limit and size < most do
  seen = seen + 1
  local key = JOB .. ids[seen]
  local job = redis.call('HMGET', key, 'status', 'session', 'expires_at')
  local is_kept = job[1] and not (job[3] and tonumber(job[3]) <= tonumber(now))
  if is_kept and (status == '' or job[1] == status) and (session == '' or job[2] == session) then
    found[#found + 1] = ids[seen]
    size = size + redis.call('HSTRLEN', key, 'result')
  end
end
return {ids[seen] or '', seen < #ids and 1 or 0, found, size}
