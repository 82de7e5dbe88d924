-- Take messages out of the quarantine for good, and write into the audit who did it.
--
-- EVALSHA sha 6 index records raws keys totals audit  action actor reason audit_length id...
--   KEYS[1..5] as in put.lua   KEYS[6] stream of what operators did
--   ARGV[2] "": nobody did it, a limit did, and nothing is audited
-- Reply: the ids that were there.
local index, records, raws, keys, totals, audit = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local found = {}
for i = 5, #ARGV do
  local id = ARGV[i]
  local record = redis.call('HGET', records, id)
  if record then found[#found + 1] = id end
end
if #found > 0 and ARGV[2] ~= '' then
  redis.call('XADD', audit, 'MAXLEN', '~', ARGV[4], '*', 'action', ARGV[1], 'actor', ARGV[2], 'reason', ARGV[3],
    'count', #found, 'ids', table.concat(found, ' '))
end
for _, id in ipairs(found) do
  local size, reason, key = string.match(redis.call('HGET', records, id), '^%d+ (%d+) (%S+) (%S*)\n')
  redis.call('HDEL', records, id)
  redis.call('HDEL', raws, id)
  redis.call('ZREM', index, id)
  if key and key ~= '' then redis.call('HDEL', keys, key) end
  if (tonumber(size) or 0) > 0 then redis.call('HINCRBY', totals, 'bytes', '-' .. size) end -- "-0" is no number to Redis
  if reason and redis.call('HINCRBY', totals, 'reason:' .. reason, -1) <= 0 then
    redis.call('HDEL', totals, 'reason:' .. reason)
  end
end
return found
