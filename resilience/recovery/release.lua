-- Move the oldest messages of one list to the front of another, keeping their order.
--
-- EVALSHA sha 2 from to  n
--   KEYS[1] list to take from (kombu: newest left, oldest right)   KEYS[2] list to put in front of
--   ARGV[1] at most so many
-- Reply: how many moved.
local batch = redis.call('LRANGE', KEYS[1], -tonumber(ARGV[1]), -1)
if #batch == 0 then return 0 end
redis.call('LTRIM', KEYS[1], 0, -#batch - 1)
for _, message in ipairs(batch) do redis.call('RPUSH', KEYS[2], message) end
return #batch
