-- Note that a worker has, or has no more, failures of one category through one circuit; look how the others fare.
--
-- EVALSHA sha 2 affected serving  owner has window_ms serves_ms
--   KEYS[1] zset worker -> its last report of this category, circuit and queue, ms
--   KEYS[2] zset worker -> when it last said that it serves the queue, ms; the others see that it is asked for, and join
--   ARGV[2] "1" it has, "0" it has no more   ARGV[3] how long a report counts
--   ARGV[4] how long who served the queue is taken to serve it
-- Reply: { other live workers, those of them that report the same }
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
if ARGV[2] == '1' then redis.call('ZADD', KEYS[1], now, ARGV[1]) else redis.call('ZREM', KEYS[1], ARGV[1]) end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - tonumber(ARGV[3]))
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('ZADD', KEYS[2], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - tonumber(ARGV[4]))
redis.call('PEXPIRE', KEYS[2], ARGV[3])
local others, affected = 0, 0
for _, owner in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], now - tonumber(ARGV[4]), '+inf')) do
  if owner ~= ARGV[1] then
    others = others + 1
    if redis.call('ZSCORE', KEYS[1], owner) then affected = affected + 1 end
  end
end
return { others, affected }
