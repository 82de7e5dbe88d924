-- Take a parking queue out of the index: nothing waits in it, and nobody meant to park there lately.
--
-- EVALSHA sha n index fresh list...  name
--   KEYS[1] set of the names of parking queues   KEYS[2] exists for a while after somebody asked for this one
--   KEYS[..] its lists, one for each priority    ARGV[1] its name
-- Reply: 1 if it was taken out.
if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
for i = 3, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 1 then return 0 end
end
return redis.call('SREM', KEYS[1], ARGV[1])
