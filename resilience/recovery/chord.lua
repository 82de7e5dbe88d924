-- A chord's part ended: Celery's own script, and the right to go on for a run that died while it started the body.
--
-- EVALSHA sha 7 ...as Celery's own, ckey, by   ...as Celery's own
--   Celery's script stands in front of this one as the function `stock`; its reply is this one's.
--   KEYS[6] the claim: who starts the body   KEYS[7] "<claim> <part>": which part made it
--   ARGV[1] task id of the part   ARGV[4] its place in the header   ARGV[7] seconds of a claim   ARGV[8] claim to make
-- A part that ends a second time was delivered again, because its first run died. If that run had the claim nobody else
-- will start the body: the claim is this run's now.
local FORGET_S = 300
local reply = stock()
local size, part = reply[3], ARGV[1] .. ':' .. ARGV[4]

if reply[4] ~= 1 and size and reply[1] == tonumber(size) + tonumber(reply[2] or 0) then
  local claim = redis.call('GET', KEYS[6])
  if claim and redis.call('GET', KEYS[7]) == claim .. ' ' .. part then
    redis.call('SET', KEYS[6], ARGV[8], 'EX', ARGV[7])
    reply[4] = 1
  end
end
if reply[4] == 1 then redis.call('SET', KEYS[7], ARGV[8] .. ' ' .. part, 'EX', FORGET_S) end
return reply
