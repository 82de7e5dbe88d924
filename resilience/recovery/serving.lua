-- A worker says which queues it serves, and asks which recoveries are under way.
--
-- EVALSHA sha n+1 active serving...  owner serves_ms
--   KEYS[1] zset of recoveries (recovery_begin.lua)   KEYS[2..] per queue: zset worker -> when it last said so, ms
-- Reply: the ids of recoveries under way
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
for i = 2, #KEYS do
  redis.call('ZADD', KEYS[i], now, ARGV[1])
  redis.call('ZREMRANGEBYSCORE', KEYS[i], '-inf', now - tonumber(ARGV[2]))
  redis.call('PEXPIRE', KEYS[i], ARGV[2])
end
return redis.call('ZRANGEBYSCORE', KEYS[1], now, '+inf')
