#!lua flags=allow-oom
-- End a request, once.
-- ARGV: the run or '' for whichever is too late in the queue, the seq that its log must have come
-- to or '', and the ending.
local run, seq = ARGV[4], ARGV[5]
local ending = {
  status = ARGV[6],
  reason = ARGV[7],
  payload = ARGV[8],
  cancelled = ARGV[9],
  failed_usage = ARGV[10],
  usage = ARGV[11],
  error = ARGV[12],
  error_code = ARGV[13],
  error_stage = ARGV[14],
}
local job = redis.call('HMGET', JOB .. id, 'status', 'run', 'seq', 'cancel_requested_at')

if not job[1] then
  return {'missing'}
end
if not is_live(job[1]) or (run ~= '' and job[2] ~= run) then
  return unchanged(id)
end
if run == '' then
  local late_at = redis.call('ZSCORE', QUEUED, id)
  if not late_at or tonumber(late_at) > tonumber(now) then
    return unchanged(id)
  end
end
if not job[4] then
  if seq ~= '' and seq ~= job[3] then
    return unchanged(id)
  end
  if job[1] == 'pending' and ending.status == 'completed' then
    return {'illegal'}
  end
end
return changed(id, finish(id, ending))
