-- One turn of a worker's loop: settle what ended, then take what there is room for. A message is always either in a
-- queue or in the claims of a worker, whoever is killed when.
--
-- EVALSHA sha n claims delayed unbegun alone drainer source... (wait source)...
--         room width sources solitude  acked tag... returned (tag text where)... started tag...
--   KEYS[1] hash of the worker: tag -> "<length of source key>:<source key><message>", n -> the last tag, a number;
--           c -> name of the connection in use;
--           w:<source> for every source that it ever waited for (not used here)
--   KEYS[2] index of what is due later (see due.lua)
--   KEYS[3] set of the worker: tags of claims whose task has not begun to run; a mark takes its tag out (see marks.py)
--   KEYS[4] list of all workers: entries as in KEYS[1], of messages that must run while nothing else does (next: right)
--   KEYS[5] names the worker that makes room for one of those
--   KEYS[..] the lists to take from, most urgent first: all queues of a priority, then of the next (next out: right)
--   KEYS[..] pairs: a list into which messages moved while the worker waited idly, and the source that they came from
--   ARGV[1] how many messages may be taken   ARGV[2] how many sources have the same priority
--   ARGV[3] how many sources there are to take from
--   ARGV[4] "empty": the worker holds nothing, so it may take one of KEYS[4]; "drain": it offers to make room for one
--   ARGV[5] how many messages were acknowledged, then the tag of each
--   ARGV[..] how many are returned, then for each its tag, its new text ("": as it is), and where it goes ("": to the
--            front of its source, "<ms>:<task id>": to what is due later, at that time, "alone": to KEYS[4],
--            "to:<key>": to the back of that list; to the front of its source if that is no list)
--   ARGV[..] how many tasks began to run, then the tag of each
--   ARGV[..] name of the connection that asks; without one, nothing may be taken but by whoever speaks for no worker
-- Reply: one string, which is read in a fraction of the time of a list: "late first alone source bytes source bytes ...",
--   a line feed, and the messages taken, one after the other
--   late: settled too late   first: tag of the first one taken   source: 1-based, of each   bytes: how long each is
--   alone: -1 when the one message taken must run alone; 1 when this worker shall make room for one, else 0
local claims, delayed, unbegun, solitary, drainer = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local room, width, sources = tonumber(ARGV[1]), math.max(1, tonumber(ARGV[2])), tonumber(ARGV[3])
local solitude, first_source, at, late = ARGV[4], 6, 5, 0

local function int(n) return string.format('%.0f', n) end

local function source_and_text(entry)
  local length, rest = string.match(entry, '^(%d+):(.*)$')
  return string.sub(rest, 1, length), string.sub(rest, length + 1)
end

local function in_batches(count, act)
  for first = at + 1, at + count, 1000 do act(first, math.min(first + 999, at + count)) end
end

-- A server that is out of memory refuses a script whose first write may need some, and no other. A turn moves what is
-- there already, and a worker that cannot take messages will never make room: so this one, which does nothing, is first.
redis.call('HDEL', claims, '')

local acked = tonumber(ARGV[at])
in_batches(acked, function(first, last)
  late = late + (last - first + 1) - redis.call('HDEL', claims, unpack(ARGV, first, last))
  redis.call('SREM', unbegun, unpack(ARGV, first, last))
end)
at = at + acked + 1

-- What moved while it waited may be taken below. Before what returns: that was taken earlier, so it is older.
for i = first_source + sources, #KEYS, 2 do
  while redis.call('LMOVE', KEYS[i], KEYS[i + 1], 'LEFT', 'RIGHT') do end
end

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

local function hand_on(source, text, target)
  local kind = target and redis.call('TYPE', target).ok
  if kind == 'list' or kind == 'none' then
    redis.call('LPUSH', target, text)
  else
    redis.call('RPUSH', source, text)
  end
end

local returned = tonumber(ARGV[at])
for i = at + 1, at + 3 * returned, 3 do
  local tag, text, where = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local entry = redis.call('HGET', claims, tag)
  if entry then
    local source, as_it_was = source_and_text(entry)
    if text == '' then text = as_it_was end
    local due, id = string.match(where, '^(%d+):(.*)$')
    if due then
      delay(source, text, tag, due, id)
    elseif where == 'alone' then
      redis.call('LPUSH', solitary, #source .. ':' .. source .. text)
    else
      hand_on(source, text, string.match(where, '^to:(.+)$'))
    end
    redis.call('HDEL', claims, tag)
    redis.call('SREM', unbegun, tag)
  else
    late = late + 1
  end
end
at = at + 3 * returned + 1

in_batches(tonumber(ARGV[at]), function(first, last) redis.call('SREM', unbegun, unpack(ARGV, first, last)) end)

-- What a connection sent that was given up, and came late: nobody reads the reply, so nothing is taken for it.
local asker = ARGV[at + tonumber(ARGV[at]) + 1]
local named = room > 0 and redis.call('HMGET', claims, 'c', 'n')
if asker and named and named[1] ~= asker then room = 0 end

local first_tag, alone, head, texts, tag = 0, 0, {}, {}, nil
if room > 0 then
  tag = tonumber(named[2] or '')
  if not tag then -- counted from now on, so that no tag of a former life of this hash comes again
    local t = redis.call('TIME')
    tag = t[1] * 1000000 + t[2]
  end
  first_tag = tag + 1
end

local tags, rows, taken, ahead = {}, {}, {}, {}

local function choose(source, message)
  tag = tag + 1
  tags[#tags + 1] = int(tag)
  rows[#rows + 1] = int(tag)
  rows[#rows + 1] = #KEYS[source] .. ':' .. KEYS[source] .. message
  head[#head + 1] = source - first_source + 1
  head[#head + 1] = #message
  texts[#texts + 1] = message
end

local function next_in(list, many) -- its oldest message that is not chosen yet; `many` are looked at together
  local seen = ahead[list]
  if not seen or (#seen == 0 and not seen.all) then
    local past = taken[list] or 0
    seen = redis.call('LRANGE', list, -past - many, -past - 1)
    seen.all = #seen < many
    ahead[list] = seen
  end
  local message = table.remove(seen)
  if message then taken[list] = (taken[list] or 0) + 1 end
  return message
end

local function claim_chosen() -- before it leaves the lists: whatever goes wrong in between loses nothing
  for first = 1, #tags, 1000 do
    local last = math.min(first + 999, #tags)
    redis.call('HSET', claims, unpack(rows, 2 * first - 1, 2 * last))
    redis.call('SADD', unbegun, unpack(tags, first, last))
  end
  redis.call('HSET', claims, 'n', int(tag))
  for list, count in pairs(taken) do redis.call('LTRIM', list, 0, -count - 1) end
end

local function oldest_solitary()
  for _, entry in ipairs(redis.call('LRANGE', solitary, -100, -1)) do
    local wanted = source_and_text(entry)
    for source = first_source, first_source + sources - 1 do
      if KEYS[source] == wanted then return entry, source end
    end
  end
end

if solitude ~= '' and room > 0 and redis.call('LLEN', solitary) > 0 then
  local entry, source = oldest_solitary()
  if entry and solitude == 'empty' then
    local _, text = source_and_text(entry)
    choose(source, text)
    claim_chosen()
    redis.call('LREM', solitary, -1, entry)
    alone, room = -1, 0
    redis.call('DEL', drainer)
  elseif entry then
    local who = redis.call('GET', drainer)
    if not who or who == claims then
      redis.call('SET', drainer, claims, 'PX', 30000)
      alone, room = 1, 0
    end
  end
end

for first = 0, room > 0 and sources - 1 or -1, width do -- of one priority: a message of each queue in turn
  local found = #texts < room
  while found do
    found = false
    for source = first_source + first, first_source + math.min(first + width, sources) - 1 do
      local message = #texts < room and next_in(KEYS[source], math.ceil((room - #texts) / width))
      if message then
        choose(source, message)
        found = true
      end
    end
  end
end
if room > 0 and #texts > 0 then claim_chosen() end
return late .. ' ' .. int(first_tag) .. ' ' .. alone .. ' ' .. table.concat(head, ' ') .. '\n' .. table.concat(texts)
