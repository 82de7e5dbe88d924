-- Move the delayed messages of some task ids to the front of their queues at once, each once, whoever else tries.
--
-- EVALSHA sha 1 delayed  id...
--   KEYS[1] as in due.lua   ARGV task ids
-- Reply: how many messages moved.
local delayed, moved = KEYS[1], 0
redis.call('ZREM', delayed, '') -- see due.lua
for _, source in ipairs(redis.call('ZRANGE', delayed, 0, -1)) do
  local due, messages = delayed .. ':due:' .. source, delayed .. ':messages:' .. source
  for _, id in ipairs(ARGV) do
    local members = { id }
    for copy = 2, 9 do members[copy] = id .. '#' .. copy end -- as turn.lua names them
    for i, text in ipairs(redis.call('HMGET', messages, unpack(members))) do
      if text and type(redis.pcall('RPUSH', source, text)) == 'number' then
        redis.call('ZREM', due, members[i])
        redis.call('HDEL', messages, members[i])
        moved = moved + 1
      end
    end
  end
end
return moved
