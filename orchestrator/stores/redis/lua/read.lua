#!lua flags=no-writes
-- Return what READ names of a request, the entries of its log after a seq, and its result where
-- nothing follows them. ARGV: the seq, how many events.
local after, limit = tonumber(ARGV[4]), tonumber(ARGV[5])
local job = redis.call('HMGET', JOB .. id, unpack(READ))
local status, seq = redis.call('HGET', JOB .. id, 'status'), redis.call('HGET', JOB .. id, 'seq')
local entries, events, last = {}, 0, after
local from = string.format('%.0f-0', after + 2)

-- One entry may fill a page, and hold 64 KiB: no more are looked at than there were before.
local count = 1
while events < limit do
  local part = redis.call('XRANGE', LOG .. id, from, '+', 'COUNT', count)
  for _, entry in ipairs(part) do
    local fields = entry[2]
    last = tonumber(string.match(entry[1], '^%d+')) - 1
    if fields[1] == 'e' then
      entries[#entries + 1] = {last, 1, -2, fields[2]}
      events = events + 1
    else
      local first = last - fields[2] + 1
      entries[#entries + 1] = {first, tonumber(fields[2]), tonumber(fields[4]), fields[6]}
      events = events + last - math.max(first - 1, after)
    end
    if events >= limit then
      break
    end
    from = '(' .. entry[1]
  end
  if #part < count then
    break
  end
  count = math.min(2 * count, 64)
end

local is_complete = status and not is_live(status) and last >= seq - 1
return {job, entries, is_complete and redis.call('HGET', JOB .. id, 'result')}
