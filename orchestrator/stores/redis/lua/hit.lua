#!lua
-- Count one call in the windows of all of its rates, or in none where one is full.
-- ARGV: the account, how many slices a window has, and of each rate its amount and its seconds.
-- Returns whether it was counted, and of the rate that leaves the least its amount, its seconds,
-- what it leaves, and in how many seconds that is more.
local account, slices = ARGV[4], tonumber(ARGV[5])

local function look(amount, period)
  local key = RATE .. period .. ':' .. account
  local number = math.floor(now * slices / period)
  local calls = redis.call('HGETALL', key)
  local count, oldest, old = 0, nil, {}
  for place = 1, #calls, 2 do
    local slice = tonumber(calls[place])
    if slice < number - slices then
      old[#old + 1] = calls[place]
    else
      count = count + calls[place + 1]
      oldest = math.min(oldest or slice, slice)
    end
  end
  return {
    key = key, amount = amount, period = period, slice = number,
    count = count, oldest = oldest, old = old
  }
end

local windows, is_full = {}, false
for place = 6, #ARGV, 2 do
  local window = look(tonumber(ARGV[place]), tonumber(ARGV[place + 1]))
  windows[#windows + 1] = window
  is_full = is_full or window.count >= window.amount
end

local least
for _, window in ipairs(windows) do
  if not is_full then
    if window.old[1] then
      redis.call('HDEL', window.key, unpack(window.old))
    end
    redis.call('HINCRBY', window.key, window.slice, 1)
    redis.call('PEXPIRE', window.key, math.ceil(window.period * 1000 * (slices + 1) / slices))
    window.count = window.count + 1
    window.oldest = math.min(window.oldest or window.slice, window.slice)
  end
  window.left = math.max(0, window.amount - window.count)
  window.reset = 0
  if window.oldest then
    window.reset = (window.oldest + slices + 1) * window.period / slices - now
  end
  if not least or window.left < least.left
    or (window.left == least.left and window.reset > least.reset) then
    least = window
  end
end
return {is_full and 0 or 1, least.amount, least.period, least.left, exact(least.reset)}
