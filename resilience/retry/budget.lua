-- The retry budget of one circuit, counted and asked atomically; the twin of budget.py.
--
-- EVALSHA sha 1 budget  now_ms calls ask ratio per_s
--   KEYS[1] string "head calls retries calls retries ...": number of the newest bucket, then ten buckets of a second
--   ARGV[1] now in ms, "" for the server's clock (the only clock outside tests)
--   ARGV[2] calls to count first
--   ARGV[3] ask for one retry 0|1
--   ARGV[4] share of the calls that may be retries   ARGV[5] retries a second that are always allowed
-- Reply: { granted 0|1, calls in the window, retries in the window }
local BUCKETS, BUCKET_MS, WINDOW_S, KEEP_MS = 10, 1000, 10, 20000
local key, calls, ask, ratio, per_s = KEYS[1], tonumber(ARGV[2]), ARGV[3] == '1', tonumber(ARGV[4]), tonumber(ARGV[5])
local now = tonumber(ARGV[1])
if not now then
  local t = redis.call('TIME')
  now = t[1] * 1000 + math.floor(t[2] / 1000)
end

local bucket = math.floor(now / BUCKET_MS)
local ring = {}
for n in string.gmatch(redis.call('GET', key) or '', '%d+') do ring[#ring + 1] = tonumber(n) end
if #ring ~= 1 + 2 * BUCKETS or bucket < ring[1] - BUCKETS then -- new, or another server's clock: start anew
  for i = 1, 1 + 2 * BUCKETS do ring[i] = 0 end
  ring[1] = bucket
end
local head = math.max(ring[1], bucket) -- time that goes backwards counts into the newest bucket
for passed = ring[1] + 1, math.min(head, ring[1] + BUCKETS) do
  local slot = 2 + 2 * (passed % BUCKETS)
  ring[slot], ring[slot + 1] = 0, 0
end
ring[1] = head
local slot = 2 + 2 * (head % BUCKETS)
ring[slot] = ring[slot] + calls

local called, retried = 0, 0
for i = 2, 1 + 2 * BUCKETS, 2 do
  called, retried = called + ring[i], retried + ring[i + 1]
end
local granted = ask and retried < math.max(ratio * called, per_s * WINDOW_S)
if granted then
  ring[slot + 1] = ring[slot + 1] + 1
  retried = retried + 1
end
if calls > 0 or granted then -- else nothing is new: a refusal writes nothing
  for i = 1, #ring do ring[i] = string.format('%.0f', ring[i]) end
  redis.call('SET', key, table.concat(ring, ' '), 'PX', KEEP_MS)
end
return { granted and 1 or 0, called, retried }
