#!lua flags=allow-oom
-- End a request, once.
-- ARGV: the run or '' for whichever is too late in the queue, who claimed it or '', the seq that
-- its log must have come to or '', and the ending.
local run, owner, seq = ARGV[4], ARGV[5], ARGV[6]
local ending = {
  status = ARGV[7],
  reason = ARGV[8],
  payload = ARGV[9],
  cancelled = ARGV[10],
  failed_usage = ARGV[11],
  usage = ARGV[12],
  error = ARGV[13],
  error_code = ARGV[14],
  error_stage = ARGV[15],
}
local job = redis.call('HMGET', JOB .. id, 'status', 'run', 'seq', 'cancel_requested_at', 'owner')

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
  -- Redis may have forgotten the claim, and with it that this run is one of the request's.
  if owner ~= (job[5] or '') then
    return unchanged(id)
  end
  if seq ~= '' and seq ~= job[3] then
    return unchanged(id)
  end
  if job[1] == 'pending' and ending.status == 'completed' then
    return {'illegal'}
  end
end
return changed(id, finish(id, ending))
