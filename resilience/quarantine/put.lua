-- Keep a message, once, and name the oldest that the limits have no room for. Nothing is removed here: whoever asked
-- tells about them first.
--
-- EVALSHA sha 5 index records raws keys totals  key head json raw max max_bytes max_age_ms most
--   KEYS[1] zset id -> id, oldest first      KEYS[2] hash id -> "at_ms size reason key\n<json>"
--   KEYS[3] hash id -> the message           KEYS[4] hash key -> id
--   KEYS[5] hash: n -> the last id, bytes -> size of all, reason:<reason> -> how many
--   ARGV[1] the same for a message that is put again; "" for none   ARGV[2] its reason   ARGV[3] what is known of it
--   ARGV[4] the message   ARGV[5..7] limits: messages, bytes, milliseconds   ARGV[8] how many victims to name at most
-- Without a reason nothing is put: only the victims are asked for.
-- Reply: { id, 1 if it is new, victim id, victim record, ... }
local index, records, raws, keys, totals = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local key, reason, raw = ARGV[1], ARGV[2], ARGV[4]
local max, max_bytes, max_age, most = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)

local function int(n) return string.format('%.0f', n) end

local id, new = key ~= '' and redis.call('HGET', keys, key), 0
if id and redis.call('HEXISTS', records, id) == 0 then id = nil end -- what it pointed to is gone
id = id or ''
if id == '' and reason ~= '' then
  id = redis.call('HINCRBY', totals, 'n', 1)
  local newest = redis.call('ZREVRANGE', index, 0, 0)[1]
  if newest and tonumber(newest) >= id then -- the counter was lost (evicted): no id is given twice
    id = tonumber(newest) + 1
    redis.call('HSET', totals, 'n', int(id))
  end
  id, new = int(id), 1
  redis.call('HSET', raws, id, raw)
  redis.call('HSET', records, id, int(now) .. ' ' .. int(#raw) .. ' ' .. reason .. ' ' .. key .. '\n' .. ARGV[3])
  redis.call('ZADD', index, id, id)
  if key ~= '' then redis.call('HSET', keys, key, id) end
  redis.call('HINCRBY', totals, 'bytes', #raw)
  redis.call('HINCRBY', totals, 'reason:' .. reason, 1)
end

local reply = { id, new }
local count, bytes = redis.call('ZCARD', index), tonumber(redis.call('HGET', totals, 'bytes') or '0')
for _, old in ipairs(redis.call('ZRANGE', index, 0, most - 1)) do
  local record = redis.call('HGET', records, old) or ''
  local at, size = string.match(record, '^(%d+) (%d+) ')
  local over = count > max or bytes > max_bytes or now - tonumber(at or '0') > max_age
  if not over or old == id then break end -- the newest stays, whatever its size: it was in Redis before, too
  reply[#reply + 1] = old
  reply[#reply + 1] = record
  count, bytes = count - 1, bytes - tonumber(size or '0')
end
return reply
