-- One circuit, changed atomically; the twin of machine.py.
--
-- EVALSHA sha 5 circuit permits index version channel  op now_ms jitter policy... args...
--   KEYS[1] hash of the circuit             KEYS[2] zset permit id -> expiry in ms
--   KEYS[3] hash name -> "state epoch until_ms"     KEYS[4] counter raised by every transition
--   KEYS[5] channel (not a key) on which a transition is published
--   ARGV[1] op: record | admit | reset
--   ARGV[2] name of the circuit
--   ARGV[3] now in ms, "" for the server's clock (the only clock outside tests)
--   ARGV[4] jitter: a random number in [0, 1)
--   ARGV[5..12] policy: consecutive_failures failure_ratio window_ms minimum_calls open_ms open_max_ms jitter_share
--               half_open_permits ; ARGV[13] success_threshold
--   record: ARGV[14] epoch, [15] worker, [16] successes, [17] failure 0|1, [18] permit id or ""
--   admit:  ARGV[14] permit id, [15] lease in ms
--   reset:  ARGV[14] epoch that must match or "", [15] reason
-- Reply: { granted 0|1, state, epoch, remaining open ms, old state or "", reason }
--   record: granted 1 if the outcome counted.  reset: granted 0 if the epoch did not match.
local BUCKETS, KEEP_MS = 12, 7 * 86400 * 1000
local circuit, permits, index, version, channel = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local op, name, jitter = ARGV[1], ARGV[2], tonumber(ARGV[4])
local policy = {
  consecutive = tonumber(ARGV[5]), ratio = tonumber(ARGV[6]), window = tonumber(ARGV[7]), minimum = tonumber(ARGV[8]),
  open = tonumber(ARGV[9]), open_max = tonumber(ARGV[10]), jitter = tonumber(ARGV[11]),
  permits = tonumber(ARGV[12]), passes = tonumber(ARGV[13]),
}
local now = tonumber(ARGV[3])
if not now then
  local t = redis.call('TIME')
  now = t[1] * 1000 + math.floor(t[2] / 1000)
end

local raw = redis.call('HMGET', circuit, 'state', 'epoch', 'until', 'opens', 'streak', 'streak_worker', 'streak_shared',
  'feeder', 'shared_until', 'passed', 'window')
local state, epoch, until_ms, opens = raw[1] or 'closed', tonumber(raw[2] or 1), tonumber(raw[3] or 0), tonumber(raw[4] or 0)
local old, why = '', ''

local function int(n) return string.format('%.0f', n) end

local function enter(new, reason, new_opens, new_until)
  old, why, state, epoch, opens, until_ms = state, reason, new, epoch + 1, new_opens, new_until
  redis.call('DEL', permits)
  redis.call('HDEL', circuit, 'streak', 'streak_worker', 'streak_shared', 'passed', 'window')
  redis.call('HSET', circuit, 'state', state, 'epoch', int(epoch), 'until', int(until_ms), 'opens', int(opens),
    'reason', reason, 'changed', int(now))
  redis.call('HSET', index, name, state .. ' ' .. int(epoch) .. ' ' .. int(until_ms))
  redis.call('INCR', version)
  redis.call('PUBLISH', channel, name .. ' ' .. state .. ' ' .. int(epoch) .. ' ' .. int(math.max(0, until_ms - now)))
end

local function open(reason)
  local base = math.min(policy.open * 2 ^ math.min(opens, 40), policy.open_max)
  enter('open', reason, opens + 1, now + math.floor(base * (1 + policy.jitter * jitter)))
end

local function reply(granted)
  redis.call('PEXPIRE', circuit, KEEP_MS)
  return { granted, state, epoch, math.max(0, until_ms - now), old, why }
end

if not raw[1] then
  -- Counted from now on, so that after a flush no process mistakes the new life's number for the one it remembers.
  redis.call('SET', version, int(now), 'NX')
  -- New, or forgotten after a week of silence: then processes may remember its epoch, so it goes on from there.
  local known = redis.call('HGET', index, name)
  if known then
    epoch = tonumber(string.match(known, ' (%d+) ')) + 1
    redis.call('INCR', version)
    redis.call('PUBLISH', channel, name .. ' closed ' .. int(epoch) .. ' 0')
  end
  redis.call('HSET', circuit, 'state', state, 'epoch', int(epoch))
  redis.call('HSET', index, name, state .. ' ' .. int(epoch) .. ' 0')
end

if op == 'reset' then
  if ARGV[14] ~= '' and tonumber(ARGV[14]) ~= epoch then return reply(0) end
  enter('closed', ARGV[15], 0, 0)
  if old == 'closed' then old, why = '', '' end -- its memory is new, its state is not: no transition
  return reply(1)
end

if op == 'admit' then
  if state == 'open' and now >= until_ms then enter('half_open', 'open time is over', opens, 0) end
  if state == 'closed' then return reply(1) end
  if state == 'open' then return reply(0) end
  redis.call('ZREMRANGEBYSCORE', permits, '-inf', now)
  if not redis.call('ZSCORE', permits, ARGV[14]) and redis.call('ZCARD', permits) >= policy.permits then return reply(0) end
  redis.call('ZADD', permits, now + tonumber(ARGV[15]), ARGV[14])
  redis.call('PEXPIRE', permits, KEEP_MS)
  return reply(1)
end

-- record
local worker, successes, failure, permit = ARGV[15], tonumber(ARGV[16]), tonumber(ARGV[17]), ARGV[18]
if tonumber(ARGV[14]) ~= epoch or state == 'open' then return reply(0) end

if state == 'half_open' then
  local expiry = redis.call('ZSCORE', permits, permit)
  if not expiry or tonumber(expiry) <= now then return reply(0) end
  redis.call('ZREM', permits, permit)
  if failure == 1 then
    open('a probe failed')
  elseif successes > 0 then
    local passed = redis.call('HINCRBY', circuit, 'passed', 1)
    if passed >= policy.passes then enter('closed', passed .. ' probes passed', 0, 0) end
  end
  return reply(1)
end

-- closed: the ring of buckets, "head s1 f1 s2 f2 ..."
local width = math.max(1, math.floor(policy.window / BUCKETS))
local bucket = math.floor(now / width)
local ring, head = {}, 0
for n in string.gmatch(raw[11] or '', '%d+') do ring[#ring + 1] = tonumber(n) end
if #ring == 0 then
  for i = 1, 1 + 2 * BUCKETS do ring[i] = 0 end
end
head = ring[1]
if bucket < head - BUCKETS then -- the policy's window changed, and with it the buckets' numbers: start anew
  for i = 2, 1 + 2 * BUCKETS do ring[i] = 0 end
  head = bucket
  ring[1] = bucket
end
if bucket > head then
  for passed = head + 1, math.min(bucket, head + BUCKETS) do
    local slot = 2 + 2 * (passed % BUCKETS)
    ring[slot], ring[slot + 1] = 0, 0
  end
  head = bucket
  ring[1] = bucket
end
local slot = 2 + 2 * (head % BUCKETS)
ring[slot], ring[slot + 1] = ring[slot] + successes, ring[slot + 1] + failure
local good, bad = 0, 0
for i = 2, 1 + 2 * BUCKETS, 2 do
  good, bad = good + ring[i], bad + ring[i + 1]
end
for i = 1, #ring do ring[i] = int(ring[i]) end

local streak, first, shared = tonumber(raw[5] or 0), raw[6] or '', raw[7] == '1'
local feeder, shared_until = raw[8] or '', tonumber(raw[9] or 0)
if feeder ~= '' and feeder ~= worker then shared_until = now + policy.window end
if successes > 0 then streak, first, shared = 0, '', false end
if failure == 1 then
  shared = shared or (streak > 0 and first ~= worker)
  if first == '' then first = worker end
  streak = streak + 1
end
redis.call('HSET', circuit, 'window', table.concat(ring, ' '), 'streak', streak, 'streak_worker', first,
  'streak_shared', shared and '1' or '0', 'feeder', worker, 'shared_until', int(shared_until))

if failure == 1 then
  local calls = good + bad
  if calls >= policy.minimum then
    if bad >= policy.ratio * calls then open(bad .. ' of ' .. calls .. ' calls failed') end
  elseif streak >= policy.consecutive and (shared or now >= shared_until) then
    open(streak .. ' failures in a row')
  end
end
return reply(1)
