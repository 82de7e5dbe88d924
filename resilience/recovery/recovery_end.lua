-- End a recovery: only who carries it out may, so it is counted once.
--
-- EVALSHA sha 3 active recovery counts  id by count
--   KEYS as in recovery_begin.lua   ARGV[2] who ends it   ARGV[3] the count to raise
-- Reply: 1; 0 if it is somebody else's by now, or has ended.
if redis.call('HGET', KEYS[2], 'by') ~= ARGV[2] then return 0 end
redis.call('DEL', KEYS[2])
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HINCRBY', KEYS[3], ARGV[3], 1)
return 1
