-- A worker says which queues it serves, where somebody asked lately, and asks which recoveries are under way.
--
-- EVALSHA sha n+1 active serving...  owner
--   KEYS[1] zset of recoveries (recovery_begin.lua)   KEYS[2..] per queue: zset worker -> when it last said so, ms;
--   made by who asks (affected.lua), so that a fleet without trouble writes nothing
-- Reply: the ids of recoveries under way
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
for i = 2, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 1 then redis.call('ZADD', KEYS[i], now, ARGV[1]) end
end
return redis.call('ZRANGEBYSCORE', KEYS[1], now, '+inf')
