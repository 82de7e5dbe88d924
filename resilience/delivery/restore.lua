-- Move one unacknowledged message back to the front of its queue, once.
--
-- EVALSHA sha 3 unacked index queue  tag message
--   KEYS[1] hash tag -> entry   KEYS[2] zset tag -> time   KEYS[3] list of the queue (next to be taken: right)
--   ARGV[1] tag   ARGV[2] the message to put on the queue
-- Reply: 1 if this call moved it, 0 if somebody else had.
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('RPUSH', KEYS[3], ARGV[2]) -- first: if it fails, nothing is removed
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return 1
