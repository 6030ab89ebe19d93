#!lua flags=no-writes
-- Return how many requests of its session a pending one waits for, and, where that is pending, the
-- id and the priority of the one whose turn it is, be it itself.
local job = redis.call('HMGET', JOB .. id, 'session', 'status', 'priority')
if job[2] ~= 'pending' then
  return {0}
end
local rank = redis.call('ZRANK', LINE .. job[1], id)
if not rank then
  return {0, id, job[3]}
end
local first = redis.call('HGET', SESSION .. job[1], 'current')
local turn = redis.call('HMGET', JOB .. first, 'status', 'priority')
if turn[1] ~= 'pending' then
  return {rank + 1}
end
return {rank + 1, first, turn[2]}
