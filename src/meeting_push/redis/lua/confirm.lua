-- 把一批确认记进各消息的状态哈希；只有第一次确认改变计数（幂等）。
-- ARGV[1] 前缀  ARGV[2] 哈希的 TTL(ms)
-- 之后每四个一组：message_id, user_id, sent_at, acked_at
-- 返回：第一次确认、且发送者要回执的 {message_id, sender_id, user_id, acked_at, ...}
local prefix = ARGV[1]
local ttl = ARGV[2]
local receipts = {}
for i = 3, #ARGV, 4 do
  local key = prefix .. 'message_delivery_status:' .. ARGV[i]
  local field = 'u:' .. ARGV[i + 1]
  local before = redis.call('HGET', key, field)
  if not before or string.sub(before, 1, 9) ~= 'delivered' then
    if before then -- 迟到的确认胜过 failed、expired：它们的计数与死信收回
      redis.call('HINCRBY', key, string.match(before, '^%a+'), -1)
      local letter = string.match(before, '^failed:.*:(%d+%-%d+)$')
      if letter then
        redis.call('XDEL', prefix .. 'dead_letter_queue', letter)
      end
    end
    redis.call('HSET', key, field, 'delivered:' .. ARGV[i + 2] .. ':' .. ARGV[i + 3])
    if redis.call('HINCRBY', key, 'delivered', 1) == 1 then
      redis.call('PEXPIRE', key, ttl)
    end
    local asked = redis.call('HMGET', key, 'receipt_to', 'expires_at')
    local sender = asked[1]
    if before or (asked[2] and tonumber(asked[2]) <= tonumber(ARGV[i + 3])) then
      -- 过期之后才来的：它到手了，不再是洞（墓碑见 expire.lua）
      redis.call('ZREM', prefix .. 'expired_messages:{' .. ARGV[i + 1] .. '}', ARGV[i])
    end
    if sender then
      receipts[#receipts + 1] = ARGV[i]
      receipts[#receipts + 1] = sender
      receipts[#receipts + 1] = ARGV[i + 1]
      receipts[#receipts + 1] = ARGV[i + 3]
    end
  end
end
return receipts
