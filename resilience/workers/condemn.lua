-- The second look at one suspect, and the right to take its work.
--
-- EVALSHA sha 4 beats grace lock info  suspect judge gone_ms silent_ms channel_prefix lock_ms
--   KEYS[1] zset owner -> last beat in ms   KEYS[2] a time in ms: while it exists nobody is condemned who has not beaten
--   since   KEYS[3] the judge's lock
--   KEYS[4] hash of the suspect
-- Reply: { 1, what the suspect ran, 1 if it was being stopped else 0 } if it is dead and the judge may reclaim for
-- lock_ms or until it dies itself, else { 0, "", 0 }. What it ran is handed out once: a judge that dies now leaves it
-- uncounted rather than have it counted twice.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local beat = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]))
local since = redis.call('GET', KEYS[2])
if not beat or since and beat <= tonumber(since) or beat > now - tonumber(ARGV[3]) then return { 0, '', 0 } end
local connected = redis.call('PUBSUB', 'NUMSUB', ARGV[5] .. ARGV[1])[2] > 0
if connected and beat > now - tonumber(ARGV[4]) then return { 0, '', 0 } end
local judge = redis.call('GET', KEYS[3])
if judge and judge ~= ARGV[2] and redis.call('PUBSUB', 'NUMSUB', ARGV[5] .. judge)[2] > 0 then return { 0, '', 0 } end
redis.call('HDEL', KEYS[4], '') -- first: a server out of memory does not refuse what comes after it (see turn.lua)
redis.call('SET', KEYS[3], ARGV[2], 'PX', ARGV[6]) -- a judge that died in the middle has no connection: the next one goes on
local running = redis.call('HGET', KEYS[4], 'running') or ''
redis.call('HDEL', KEYS[4], 'running')
return { 1, running, redis.call('HEXISTS', KEYS[4], 'stopping') }
