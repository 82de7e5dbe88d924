-- Move one message from the quarantine onto a queue's list, once, whoever else tries.
--
-- EVALSHA sha 7 index records raws keys totals audit target  id message actor reason audit_length
--   KEYS[1..6] as in remove.lua   KEYS[7] list of the queue (the next to be taken is right: it goes to the end of the line)
--   ARGV[2] the message as it shall lie there
-- Reply: 1 if this call moved it, 0 if it is not in quarantine any more, -1 if KEYS[7] is no list.
local index, records, raws, keys, totals, audit = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local target, id = KEYS[7], ARGV[1]
local record = redis.call('HGET', records, id)
if not record then return 0 end
local kind = redis.call('TYPE', target).ok
if kind ~= 'list' and kind ~= 'none' then return -1 end
redis.call('LPUSH', target, ARGV[2]) -- first: if it fails, nothing is removed
redis.call('XADD', audit, 'MAXLEN', '~', ARGV[5], '*', 'action', 'replay', 'actor', ARGV[3], 'reason', ARGV[4],
  'count', 1, 'ids', id, 'to', target)
local size, reason, key = string.match(record, '^%d+ (%d+) (%S+) (%S*)\n')
redis.call('HDEL', records, id)
redis.call('HDEL', raws, id)
redis.call('ZREM', index, id)
if key and key ~= '' then redis.call('HDEL', keys, key) end
if (tonumber(size) or 0) > 0 then redis.call('HINCRBY', totals, 'bytes', '-' .. size) end -- "-0" is no number to Redis
if reason and redis.call('HINCRBY', totals, 'reason:' .. reason, -1) <= 0 then
  redis.call('HDEL', totals, 'reason:' .. reason)
end
return 1
