-- Move messages of one list to the front of another, each rewritten, once, whoever else tries.
--
-- EVALSHA sha 2|3 from to [last]  side old new old new ...
--   KEYS[1] list to take from (kombu: newest left, oldest right)   KEYS[2] list to put in front of
--   KEYS[3] the newest message that the last call put into KEYS[2]: while it lies there nothing moves, since what is
--           newer would get in front of it
--   ARGV[1] from which side KEYS[1] is searched: "-1" the oldest first, "1" the newest first
--   ARGV[..] pairs, newest message first: as it lies in KEYS[1], and as it shall lie in KEYS[2]
-- Reply: how many moved; 0 if KEYS[2] is no list, or before the last ones are taken.
local LOOK, FORGET_S = 20000, 86400
local kind = redis.call('TYPE', KEYS[2]).ok
if kind ~= 'list' and kind ~= 'none' then return 0 end

local last = KEYS[3] and redis.call('GET', KEYS[3])
-- A server before 6.0.6 does not know LPOS: the order of two calls is lost there, and nothing else.
if last and type(redis.pcall('LPOS', KEYS[2], last, 'RANK', -1, 'MAXLEN', LOOK)) == 'number' then return 0 end

local moved = 0
for i = 2, #ARGV, 2 do
  if redis.call('LREM', KEYS[1], ARGV[1], ARGV[i]) == 1 then
    redis.call('RPUSH', KEYS[2], ARGV[i + 1])
    if moved == 0 and KEYS[3] then redis.call('SET', KEYS[3], ARGV[i + 1], 'EX', FORGET_S) end
    moved = moved + 1
  end
end
return moved
