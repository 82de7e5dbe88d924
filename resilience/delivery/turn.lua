-- One turn of a worker's loop: settle what ended, then take what there is room for. A message is always either in a
-- queue or in the claims of a worker, whoever is killed when.
--
-- EVALSHA sha n claims delayed source... (wait source)...
--         room width sources acked tag... returned (tag text where)...
--   KEYS[1] hash of the worker: tag -> "<length of source key>:<source key><message>", n -> the last tag, a number;
--           w:<source> for every source that it ever waited for (not used here)
--   KEYS[2] index of what is due later (see due.lua)
--   KEYS[..] the lists to take from, most urgent first: all queues of a priority, then of the next (next out: right)
--   KEYS[..] pairs: a list into which messages moved while the worker waited idly, and the source that they came from
--   ARGV[1] how many messages may be taken   ARGV[2] how many sources have the same priority
--   ARGV[3] how many sources there are to take from
--   ARGV[4] how many messages were acknowledged, then the tag of each
--   ARGV[..] how many are returned, then for each its tag, its new text ("": as it is), and where it goes ("": to the
--            front of its source, "<ms>:<task id>": to what is due later, at that time)
-- Reply: { settled too late, first tag taken, "source source ..." (1-based, one per message taken), message... }
local claims, delayed = KEYS[1], KEYS[2]
local room, width, sources = tonumber(ARGV[1]), math.max(1, tonumber(ARGV[2])), tonumber(ARGV[3])
local first_source, at, late = 3, 4, 0

local function int(n) return string.format('%.0f', n) end

local acked = tonumber(ARGV[at])
for first = at + 1, at + acked, 1000 do
  local last = math.min(first + 999, at + acked)
  late = late + (last - first + 1) - redis.call('HDEL', claims, unpack(ARGV, first, last))
end
at = at + acked + 1

local function delay(source, text, tag, due, id)
  local messages, member, copy = delayed .. ':messages:' .. source, id, 2
  while redis.call('HEXISTS', messages, member) == 1 do -- a task may have several messages; nine of them can be revoked
    member = id .. '#' .. (copy < 10 and copy or claims .. ':' .. tag)
    copy = copy + 1
  end
  redis.call('HSET', messages, member, text)
  redis.call('ZADD', delayed .. ':due:' .. source, due, member)
  redis.call('ZADD', delayed, 'LT', due, source)
end

for i = at + 1, at + 3 * tonumber(ARGV[at]), 3 do
  local tag, text, where = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local entry = redis.call('HGET', claims, tag)
  if entry then
    local length, rest = string.match(entry, '^(%d+):(.*)$')
    local source = string.sub(rest, 1, length)
    if text == '' then text = string.sub(rest, length + 1) end
    local due, id = string.match(where, '^(%d+):(.*)$')
    if due then
      delay(source, text, tag, due, id)
    else
      redis.call('RPUSH', source, text)
    end
    redis.call('HDEL', claims, tag)
  else
    late = late + 1
  end
end

for i = first_source + sources, #KEYS, 2 do -- what moved while it waited is the next of its source, and may be taken below
  local message = redis.call('RPOP', KEYS[i])
  while message do
    redis.call('RPUSH', KEYS[i + 1], message)
    message = redis.call('RPOP', KEYS[i])
  end
end

local reply, from, tag = { late, '', '' }, {}, nil
if room > 0 then
  tag = tonumber(redis.call('HGET', claims, 'n') or '')
  if not tag then -- counted from now on, so that no tag of a former life of this hash comes again
    local t = redis.call('TIME')
    tag = t[1] * 1000000 + t[2]
  end
  reply[2] = int(tag + 1)
end
for first = 1, room > 0 and sources or 0, width do -- of one priority: a message of each queue in turn
  local found = #from < room
  while found do
    found = false
    for source = first, math.min(first + width - 1, sources) do
      local key = KEYS[first_source - 1 + source]
      local message = #from < room and redis.call('RPOP', key)
      if message then
        tag = tag + 1
        redis.call('HSET', claims, int(tag), #key .. ':' .. key .. message)
        from[#from + 1] = source
        reply[#reply + 1] = message
        found = true
      end
    end
  end
end
if #from > 0 then redis.call('HSET', claims, 'n', int(tag)) end
reply[3] = table.concat(from, ' ')
return reply
