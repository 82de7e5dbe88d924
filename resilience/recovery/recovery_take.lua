-- Take a recovery over from who carries it out, or go on to its next step.
--
-- EVALSHA sha 1 recovery  from to step
--   KEYS[1] hash of the recovery
--   ARGV[1] who carries it out as far as the caller knows, "" for nobody   ARGV[2] who does from now on   ARGV[3] step
-- Reply: 1 if it is the caller's now; 0 if somebody else was quicker, or it has ended.
if redis.call('HGET', KEYS[1], 'by') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'by', ARGV[2], 'step', ARGV[3])
return 1
