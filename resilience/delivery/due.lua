-- Move delayed messages to the list that they came from: those that are due to its front, earliest first; or all of
-- them to its back. A message moves once, whoever else tries.
--
-- EVALSHA sha 1 delayed  owner most all lease_ms
--   KEYS[1] zset source -> when to look there next, ms    source: the key of a queue's list (next to be taken: right)
--   ARGV[1] who asks   ARGV[2] messages of a source moved at most   ARGV[3] "1": all, due or not   ARGV[4] see below
-- Beside it, for each source:
--   <delayed>:due:<source>       zset member -> due, ms
--   <delayed>:messages:<source>  hash member -> message
--   <delayed>:front:<source>     "<ms>:<n>:<message>": when the batch before was moved, its size and its last message
-- and <delayed>:keeper, the one worker that comes back in time for the next message; the others just look every beat.
-- Reply: { moved, the server's time in ms, when to come back in ms: "" unless the caller is the keeper }
--
-- A server out of memory refuses a script's first write if that could take memory, and none after it. Moving takes none,
-- so a write that changes nothing goes first.
-- While the batch before is not taken yet, none follows: in front of it the next one would be taken first. The next look
-- is when it will be taken, at the pace so far.
local delayed, owner, most, all = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[3] == '1'
local PAUSE_MS, LONGEST_PAUSE_MS, FORGET_FRONT_MS, SOURCES = 5, 250, 3600000, 100
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local moved = 0

local function ms(n) return string.format('%.0f', n) end

local function worked(reply) return not (type(reply) == 'table' and reply.err) end

-- For how many ms the batch before will still wait; nil if it was taken.
local function before_waits(front, source)
  local since, size, last = string.match(redis.call('GET', front) or '', '^(%d+):(%d+):(.*)$')
  local place = since and redis.pcall('LPOS', source, last, 'RANK', -1, 'MAXLEN', most)
  if not place or not worked(place) then return nil end
  local left = redis.call('LLEN', source) - place
  return (now - tonumber(since)) * left / math.max(1, tonumber(size) - left)
end

-- One by one, so that large messages are not in memory together; stops where the list takes no more.
local function move(source, due, messages, members)
  local last
  local first, stop, step = #members, 1, -1
  if all then first, stop, step = 1, #members, 1 end
  for i = first, stop, step do
    local text = redis.call('HGET', messages, members[i])
    if text then
      if not worked(redis.pcall(all and 'LPUSH' or 'RPUSH', source, text)) then return last end
      moved = moved + 1
      last = last or text
    end
    redis.call('ZREM', due, members[i])
    redis.call('HDEL', messages, members[i])
  end
  return last
end

local until_when = all and '+inf' or ms(now)
local sources = redis.call('ZRANGEBYSCORE', delayed, '-inf', until_when, 'LIMIT', 0, SOURCES)
if redis.call('EXISTS', delayed) == 1 then redis.call('ZREM', delayed, '') end
for _, source in ipairs(sources) do
  local due, messages = delayed .. ':due:' .. source, delayed .. ':messages:' .. source
  local front = delayed .. ':front:' .. source
  local waits = not all and before_waits(front, source)
  if not waits then
    local before = moved
    local last = move(source, due, messages, redis.call('ZRANGEBYSCORE', due, '-inf', until_when, 'LIMIT', 0, most))
    if last and not all then
      redis.call('SET', front, ms(now) .. ':' .. moved - before .. ':' .. last, 'PX', FORGET_FRONT_MS)
    end
  end
  local next = redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')[2]
  if next then
    local pause = math.min(LONGEST_PAUSE_MS, math.max(PAUSE_MS, waits or 0))
    redis.call('ZADD', delayed, ms(math.max(tonumber(next), now + pause)), source)
  else
    redis.call('ZREM', delayed, source)
    if all then redis.call('DEL', front) end
  end
end

local back = ''
local next = redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')[2]
if next then
  local keeper = redis.call('GET', delayed .. ':keeper')
  if not keeper or keeper == owner then
    redis.call('SET', delayed .. ':keeper', owner, 'PX', ARGV[4])
    back = ms(tonumber(next))
  end
end
return { moved, ms(now), back }
