#!lua flags=no-writes
-- Return a request and the entries of its log after a seq. ARGV: the seq, how many events.
local after, limit = tonumber(ARGV[4]), tonumber(ARGV[5])
local job = all(id)
local entries, events = {}, 0
local from = string.format('%.0f-0', after + 2)

while events < limit do
  local part = redis.call('XRANGE', LOG .. id, from, '+', 'COUNT', 64)
  for _, entry in ipairs(part) do
    local last = tonumber(string.match(entry[1], '^%d+')) - 1
    local fields = entry[2]
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
  if #part < 64 then
    break
  end
end
return {job, entries}
