-- One beat: renew the caller, list who seems dead.
--
-- EVALSHA sha 4 beats seen grace info  owner gone_ms silent_ms channel_prefix reconnected info_ttl_ms running known
--   KEYS[1] zset owner -> last beat in ms    KEYS[2] last beat of anybody, ms
--   KEYS[3] while it exists nobody is suspected    KEYS[4] hash of the caller
--   ARGV[7] what the caller runs now (running.py), "" if that is what its last beat said
--   ARGV[8] "1" if the caller beat before, so that it must be known here
-- Reply: 1 if the caller is known no more, since others took it for dead, else 0; then the owners whose beat is older
--   than gone_ms without a connection, or older than silent_ms with one; at most 8.
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
if ARGV[5] == '1' or now - seen > 2 * gone then redis.call('SET', KEYS[3], '1', 'PX', 3 * gone) end
local suspects = { forgotten and 1 or 0 }
if redis.call('EXISTS', KEYS[3]) == 1 then return suspects end
for _, owner in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - gone, 'LIMIT', 0, 8)) do
  local connected = redis.call('PUBSUB', 'NUMSUB', ARGV[4] .. owner)[2] > 0
  if not connected or tonumber(redis.call('ZSCORE', KEYS[1], owner)) < now - silent then
    suspects[#suspects + 1] = owner
  end
end
return suspects
