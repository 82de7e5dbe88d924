-- One circuit, changed atomically; the twin of machine.py.
--
-- EVALSHA sha 6 circuit permits index version channel audit  op name now_ms jitter policy args...
--   KEYS[1] hash of the circuit             KEYS[2] zset permit id -> expiry in ms
--   KEYS[3] hash name -> "state epoch until_ms changed_ms" (0: never)
--   KEYS[4] counter raised by every transition
--   KEYS[5] channel (not a key) on which a transition is published, if the caller may publish
--   KEYS[6] stream of what operators did
--   ARGV[1] op: record | admit | order
--   ARGV[2] name of the circuit
--   ARGV[3] now in ms, "" for the server's clock (the only clock outside tests)
--   ARGV[4] jitter: a random number in [0, 1)
--   ARGV[5] policy: 13 numbers, see `rules` below (ratios; times in ms; window_calls and slow_ratio 0: off)
--   record: ARGV[6] epoch, [7] worker, [8] successes, [9] slow ones of them, [10] failure 0|1, [11] it was a rate
--           limit 0|1, [12] it was slow 0|1, [13] permit id or ""
--   admit:  ARGV[6] permit id, [7] lease in ms
--   order:  ARGV[6] epoch that must match or "", [7] action: reset | force-open | disable | metrics-only | auto,
--           [8] for so many ms (0: until further notice), [9] reason that the circuit shows, [10] actor, [11] his words
-- Reply: { granted 0|1, state, epoch, remaining ms (-1: no end), old state or "", reason, former policy or "" }
--   record: granted 1 if the outcome counted.  order: granted 0 if the epoch did not match; it creates no circuit then.
--
-- EVALSHA sha 1 key  knock: raises unless this Redis takes writes by scripts
if ARGV[1] == 'knock' then return redis.call('SET', KEYS[1], 1, 'PX', 1000) end

local BUCKETS, KEEP_MS, AUDIT_LENGTH = 12, 7 * 86400 * 1000, 10000
local FORCED = { forced_open = true, disabled = true, metrics_only = true }
local FORCES = { ['force-open'] = 'forced_open', disable = 'disabled', ['metrics-only'] = 'metrics_only' }
local circuit, permits, index, version, channel, audit = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local op, name, jitter, policy = ARGV[1], ARGV[2], tonumber(ARGV[4]), ARGV[5]
local rules, numbers = {}, string.gmatch(policy, '%S+')
for _, rule in ipairs({ 'consecutive', 'ratio', 'limited_ratio', 'slow_ratio', 'window', 'calls', 'minimum', 'open',
  'open_max', 'jitter', 'permits', 'passes', 'ramp' }) do
  rules[rule] = tonumber(numbers())
end
local now = tonumber(ARGV[3])
if not now then
  local t = redis.call('TIME')
  now = t[1] * 1000 + math.floor(t[2] / 1000)
end

local raw = redis.call('HMGET', circuit, 'state', 'epoch', 'until', 'opens', 'streak', 'streak_worker', 'streak_shared',
  'feeder', 'shared_until', 'window', 'calls', 'policy', 'changed')
local state, epoch, until_ms, opens = raw[1] or 'closed', tonumber(raw[2] or 1), tonumber(raw[3] or 0), tonumber(raw[4] or 0)
local changed = tonumber(raw[13] or 0)
local old, why, former = '', '', ''

local function int(n) return string.format('%.0f', n) end

local function remaining()
  return until_ms == 0 and -1 or math.max(0, until_ms - now)
end

local function tell()
  redis.call('INCR', version)
  -- who may not publish must not leave a transition half done: the version is polled
  redis.pcall('PUBLISH', channel, name .. ' ' .. state .. ' ' .. int(epoch) .. ' ' .. int(remaining()))
end

local function row()
  return state .. ' ' .. int(epoch) .. ' ' .. int(until_ms) .. ' ' .. int(changed)
end

local function enter(new, reason, new_opens, new_until)
  if new ~= state then old, why = state, reason end
  state, epoch, opens, until_ms, changed = new, epoch + 1, new_opens, new_until, now
  redis.call('DEL', permits)
  redis.call('HDEL', circuit, 'streak', 'streak_worker', 'streak_shared', 'passed', 'window', 'calls')
  redis.call('HSET', circuit, 'state', state, 'epoch', int(epoch), 'until', int(until_ms), 'opens', int(opens),
    'reason', reason, 'changed', int(changed))
  redis.call('HSET', index, name, row())
  tell()
end

local function open(reason)
  local recovered = state == 'closed' and now >= until_ms
  local times = recovered and 1 or opens + 1
  local base = math.min(rules.open * 2 ^ math.min(times - 1, 40), rules.open_max)
  enter('open', reason, times, now + math.floor(base * (1 + rules.jitter * jitter)))
end

local function automatic(reason)
  enter(state == 'forced_open' and 'half_open' or 'closed', reason, 0, 0)
end

local function reply(granted)
  -- nobody touches a circuit that lets nothing pass: it must not be forgotten for being quiet
  if FORCED[state] then
    redis.call('PERSIST', circuit)
  else
    redis.call('PEXPIRE', circuit, KEEP_MS + math.max(0, until_ms - now))
  end
  return { granted, state, epoch, remaining(), old, why, former }
end

local revived = false
if not raw[1] then -- new, or forgotten after a week of silence, or evicted; its row in the index may have stayed
  local row_there = redis.call('HGET', index, name)
  local was, number, ends, since = string.match(row_there or '', '^(%S+) (%d+) (%-?%d+) ?(%d*)$')
  if FORCED[was] then -- evicted: an operator's word counts as long as he said
    state, epoch, until_ms, changed = was, tonumber(number), tonumber(ends), tonumber(since) or 0
  elseif was then -- processes may remember its epoch, so it goes on from there
    epoch, revived = tonumber(number) + 1, true
  end
end
local refused = op == 'order' and ARGV[6] ~= '' and tonumber(ARGV[6]) ~= epoch
local set_back = changed > now -- the clock, as by a failover to a host that is behind: the state begins now
if set_back then
  if until_ms ~= 0 then until_ms = until_ms - (changed - now) end
  changed = now
end
if not raw[1] then
  if not refused then
    -- Counted from now on, so that after a flush no process mistakes the new life's number for the one it remembers.
    redis.call('SET', version, int(now), 'NX')
    redis.call('HSET', circuit, 'state', state, 'epoch', int(epoch), 'until', int(until_ms), 'changed', int(changed))
    redis.call('HSET', index, name, row())
    if revived then tell() end
  end
elseif set_back then
  redis.call('DEL', permits) -- nobody knows when they would have ended
  redis.call('HSET', circuit, 'until', int(until_ms), 'changed', int(changed))
  redis.call('HSET', index, name, row())
elseif op ~= 'record' or tonumber(ARGV[6]) ~= epoch then
  redis.call('HSETNX', index, name, row()) -- the index may have been evicted alone; the usual outcome does without this
end

if op == 'order' then
  local action, ttl, reason = ARGV[7], tonumber(ARGV[8]), ARGV[9]
  local granted = refused and 0 or 1
  if not refused then
    if action == 'reset' then
      enter('closed', reason, 0, 0)
    elseif FORCES[action] then
      enter(FORCES[action], reason, opens, ttl > 0 and now + ttl or 0)
    elseif FORCED[state] then
      automatic(reason)
    end
  end
  redis.call('XADD', audit, 'MAXLEN', '~', AUDIT_LENGTH, '*', 'action', action, 'circuit', name, 'actor', ARGV[10],
    'reason', ARGV[11], 'ttl_s', ttl > 0 and tostring(ttl / 1000) or '', 'epoch', int(epoch), 'state', state,
    'done', refused and 'false' or 'true')
  return reply(granted)
end

if raw[12] ~= policy then
  former = raw[12] or ''
  redis.call('HSET', circuit, 'policy', policy)
end
if FORCED[state] and until_ms > 0 and now >= until_ms then automatic(state .. ' time is over') end

if op == 'admit' then
  if state == 'open' and now >= until_ms then enter('half_open', 'open time is over', opens, 0) end
  if state ~= 'half_open' then return reply((state == 'open' or state == 'forced_open') and 0 or 1) end
  redis.call('ZREMRANGEBYSCORE', permits, '-inf', now)
  if not redis.call('ZSCORE', permits, ARGV[6]) and redis.call('ZCARD', permits) >= rules.permits then return reply(0) end
  redis.call('ZADD', permits, now + tonumber(ARGV[7]), ARGV[6])
  redis.call('PEXPIRE', permits, KEEP_MS)
  return reply(1)
end

-- record
local worker, successes, slow = ARGV[7], tonumber(ARGV[8]), tonumber(ARGV[9])
local failed, limited, slow_failure, permit = ARGV[10] == '1', ARGV[11] == '1', ARGV[12] == '1', ARGV[13]
if old ~= '' or tonumber(ARGV[6]) ~= epoch then return reply(0) end -- of another epoch

if state == 'half_open' then
  local expiry = redis.call('ZSCORE', permits, permit)
  if not expiry or tonumber(expiry) <= now then return reply(0) end
  redis.call('ZREM', permits, permit)
  if failed then
    open(limited and 'a probe was rate-limited' or 'a probe failed')
  elseif slow > 0 and rules.slow_ratio > 0 then
    open('a probe was slow')
  elseif successes > 0 then
    local passed = redis.call('HINCRBY', circuit, 'passed', 1)
    if passed >= rules.passes then enter('closed', passed .. ' probes passed', opens, now + rules.ramp) end
  end
  return reply(1)
end
if state ~= 'closed' and state ~= 'metrics_only' then return reply(0) end

local good, bad, dragging, throttled = 0, 0, 0, 0
if rules.calls == 0 then -- the ring of buckets, "width head successes failures slow limited successes ..."
  local width = math.max(1, math.floor(rules.window / BUCKETS))
  local bucket = math.floor(now / width)
  -- read and written by C: number by number in Lua took more than half of the whole script's time
  local read, ring = pcall(cjson.decode, '[' .. string.gsub(raw[10] or '', ' ', ',') .. ']')
  local kept = read and #ring == 2 + 4 * BUCKETS and ring[1] >= 1 and math.floor(now / ring[1]) >= ring[2] - BUCKETS
  if not kept or ring[1] ~= width then -- new, or the clock went far back, or the caller has another window
    local was = ring
    ring = { width, bucket }
    for i = 3, 2 + 4 * BUCKETS do ring[i] = 0 end
    for b = kept and was[2] - BUCKETS + 1 or 1, kept and was[2] or 0 do -- to where each old bucket's middle belongs
      local new = math.min(math.floor((2 * b + 1) * was[1] / (2 * width)), bucket)
      if new <= bucket - BUCKETS and b == math.floor(now / was[1]) then new = bucket end -- it is still being filled
      if new > bucket - BUCKETS then
        local from, to = 4 * (b % BUCKETS), 4 * (new % BUCKETS)
        for i = 3, 6 do ring[to + i] = ring[to + i] + was[from + i] end
      end
    end
  elseif bucket > ring[2] then
    for passed = ring[2] + 1, math.min(bucket, ring[2] + BUCKETS) do
      local slot = 3 + 4 * (passed % BUCKETS)
      ring[slot], ring[slot + 1], ring[slot + 2], ring[slot + 3] = 0, 0, 0, 0
    end
    ring[2] = bucket
  end
  local slot = 3 + 4 * (ring[2] % BUCKETS)
  ring[slot] = ring[slot] + successes
  if failed and not limited then ring[slot + 1] = ring[slot + 1] + 1 end
  ring[slot + 2] = ring[slot + 2] + slow + ((failed and slow_failure) and 1 or 0)
  if failed and limited then ring[slot + 3] = ring[slot + 3] + 1 end
  for i = 3, 2 + 4 * BUCKETS, 4 do
    good, bad, dragging, throttled = good + ring[i], bad + ring[i + 1], dragging + ring[i + 2], throttled + ring[i + 3]
  end
  redis.call('HSET', circuit, 'window', table.concat(ring, ' '))
  if raw[11] then redis.call('HDEL', circuit, 'calls') end
else -- the last so many calls, a letter each
  local letters = string.rep('s', slow) .. string.rep('.', successes - slow)
  if failed then letters = letters .. (limited and (slow_failure and 'L' or 'l') or (slow_failure and 'X' or 'x')) end
  local calls = string.sub((raw[11] or '') .. letters, -rules.calls)
  local function count(pattern) return select(2, string.gsub(calls, pattern, '')) end
  good, bad, dragging, throttled = count('[.s]'), count('[xX]'), count('[sXL]'), count('[lL]')
  redis.call('HSET', circuit, 'calls', calls)
  if raw[10] then redis.call('HDEL', circuit, 'window') end
end

local streak, first, shared = tonumber(raw[5] or 0), raw[6] or '', raw[7] == '1'
local feeder, shared_until = raw[8] or '', math.min(tonumber(raw[9] or 0), now + rules.window)
if feeder ~= '' and feeder ~= worker then shared_until = now + rules.window end
if successes > 0 then streak, first, shared = 0, '', false end
if failed and not limited then
  shared = shared or (streak > 0 and first ~= worker)
  if first == '' then first = worker end
  streak = streak + 1
end
redis.call('HSET', circuit, 'streak', streak, 'streak_worker', first, 'streak_shared', shared and '1' or '0',
  'feeder', worker, 'shared_until', int(shared_until))

if state == 'closed' and (failed or slow > 0) then
  local calls = good + bad + throttled
  if calls >= rules.minimum then
    if bad >= rules.ratio * calls then
      open(bad .. ' of ' .. calls .. ' calls failed')
    elseif throttled >= rules.limited_ratio * calls then
      open(throttled .. ' of ' .. calls .. ' calls were rate-limited')
    elseif rules.slow_ratio > 0 and dragging >= rules.slow_ratio * calls then
      open(dragging .. ' of ' .. calls .. ' calls were slow')
    end
  elseif streak >= rules.consecutive and (shared or now >= shared_until) then
    open(streak .. ' failures in a row')
  end
end
return reply(1)
