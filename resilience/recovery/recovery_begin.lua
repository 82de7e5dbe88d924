-- Write down a recovery that begins, unless the same one is under way.
--
-- EVALSHA sha 4 active recovery counts lately  id budget_ms keep_ms most count again_ms field value ...
--   KEYS[1] zset id -> when it is forgotten, ms   KEYS[2] hash of the recovery
--   KEYS[3] hash of counts   KEYS[4] exists for so long after the same began
--   ARGV[2] its time budget   ARGV[3] how long it is kept past that, if nobody ends it   ARGV[4] how many at most
--   ARGV[5] the count to raise   ARGV[6] how long the same does not begin again, 0 for no time
--   ARGV[..] what is known of it
-- Reply: 1 if it may begin, 0 if it is under way or began lately, -1 if too many are under way.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if redis.call('EXISTS', KEYS[2], KEYS[4]) > 0 then return 0 end
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[4]) then return -1 end
local deadline = now + tonumber(ARGV[2])
local ends = deadline + tonumber(ARGV[3])
redis.call('HSET', KEYS[2], 'since', string.format('%.0f', now), 'deadline', string.format('%.0f', deadline))
if ARGV[6] ~= '0' then redis.call('SET', KEYS[4], '1', 'PX', ARGV[6]) end
for i = 7, #ARGV, 2 do redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
redis.call('PEXPIREAT', KEYS[2], string.format('%.0f', ends))
redis.call('ZADD', KEYS[1], string.format('%.0f', ends), ARGV[1])
redis.call('HINCRBY', KEYS[3], ARGV[5], 1)
return 1
