-- One beat: renew the caller, list who seems dead.
--
-- EVALSHA sha 4 beats seen grace info  owner gone_ms silent_ms channel_prefix reconnected info_ttl_ms running known
--   KEYS[1] zset owner -> last beat in ms    KEYS[2] last beat of anybody, ms
--   KEYS[3] a time in ms: while it exists nobody is suspected who has not beaten since    KEYS[4] hash of the caller
--   ARGV[7] what the caller runs now (running.py), "" if that is what its last beat said
--   ARGV[8] "1" if the caller beat before, so that it must be known here
-- Reply: 1 if the caller is known no more, since others took it for dead, else 0; in how many ms somebody without a
--   connection will have been late for gone_ms, 0 for nobody; then the owners whose beat is older than gone_ms without
--   a connection, or older than silent_ms with one; at most 8.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local gone, silent = tonumber(ARGV[2]), tonumber(ARGV[3])
local seen = tonumber(redis.call('GET', KEYS[2]) or now)
redis.call('HDEL', KEYS[4], '') -- first: a server out of memory does not refuse what comes after it (see turn.lua)
redis.call('SET', KEYS[2], string.format('%.0f', now), 'PX', 86400000)
local forgotten = ARGV[8] == '1' and not redis.call('ZSCORE', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[1], now, ARGV[1])
if ARGV[7] ~= '' then redis.call('HSET', KEYS[4], 'running', ARGV[7]) end
if string.sub(ARGV[7], 1, 5) == '[true' then redis.call('HSET', KEYS[4], 'stopping', 'true') end
redis.call('PEXPIRE', KEYS[4], ARGV[6])
-- After a restart or failover of the server, or when nobody beat for a while (a paused host), everybody looks dead.
if ARGV[5] == '1' or now - seen > 2 * gone then
  redis.call('SET', KEYS[3], string.format('%.0f', now), 'PX', 3 * gone)
end
local since = redis.call('GET', KEYS[3])
local reply, soon = { forgotten and 1 or 0, 0 }, math.huge
local late = redis.call(
  'ZRANGEBYSCORE', KEYS[1], since and '(' .. since or '-inf', now - 0.6 * gone, 'WITHSCORES', 'LIMIT', 0, 64
)
for i = 1, #late, 2 do
  local owner, beat = late[i], tonumber(late[i + 1])
  local connected = redis.call('PUBSUB', 'NUMSUB', ARGV[4] .. owner)[2] > 0
  if beat <= now - (connected and silent or gone) then
    if #reply < 10 then reply[#reply + 1] = owner end
  elseif not connected then
    soon = math.min(soon, beat + gone - now)
  end
end
if soon < math.huge then reply[2] = math.ceil(soon) end
return reply
