-- Move messages of one list to the front of another, each rewritten, once, whoever else tries.
--
-- EVALSHA sha 2 from to  side old new old new ...
--   KEYS[1] list to take from (kombu: newest left, oldest right)   KEYS[2] list to put in front of
--   ARGV[1] from which side KEYS[1] is searched: "-1" the oldest first, "1" the newest first
--   ARGV[..] pairs, newest message first: as it lies in KEYS[1], and as it shall lie in KEYS[2]
-- Reply: how many moved; 0 if KEYS[2] is no list.
local kind = redis.call('TYPE', KEYS[2]).ok
if kind ~= 'list' and kind ~= 'none' then return 0 end
local moved = 0
for i = 2, #ARGV, 2 do
  if redis.call('LREM', KEYS[1], ARGV[1], ARGV[i]) == 1 then
    redis.call('RPUSH', KEYS[2], ARGV[i + 1])
    moved = moved + 1
  end
end
return moved
