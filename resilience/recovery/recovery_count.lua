-- Add what a process counted since it told the last time.
--
-- EVALSHA sha 1 counts  count n ...
for i = 1, #ARGV, 2 do redis.call('HINCRBY', KEYS[1], ARGV[i], ARGV[i + 1]) end
return #ARGV / 2
