-- Put messages that must run alone onto plain queues, for workers that do not know of that.
--
-- EVALSHA sha 1 alone  most
--   KEYS[1] list: "<length of source key>:<source key><message>" (next: right)   ARGV[1] how many at most
-- Reply: how many went to the back of the list that they came from.
local moved = 0
for _ = 1, tonumber(ARGV[1]) do
  local entry = redis.call('LINDEX', KEYS[1], -1)
  if not entry then break end
  local length, rest = string.match(entry, '^(%d+):(.*)$')
  redis.call('LPUSH', string.sub(rest, 1, length), string.sub(rest, length + 1))
  redis.call('RPOP', KEYS[1])
  moved = moved + 1
end
return moved
