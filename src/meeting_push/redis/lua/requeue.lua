-- 把失败的一批（消息, 用户）从头再来：清掉状态与次数、取走死信、放进延迟队列，是一步。
-- 也移出续传日志：它将得到新的 seq（旧 seq 的洞由 resync 明说）。已确认的不动。幂等。
-- ARGV[1] 前缀  ARGV[2] 现在(ms)  ARGV[3] 状态哈希的 TTL(ms)
-- 之后每五个一组：message_id, user_id, 优先级, 过期时刻, 条目 JSON
-- 返回：放进去几条
local call, match = redis.call, string.match
local prefix, now, ttl = ARGV[1], ARGV[2], ARGV[3]
local count = 0
for i = 4, #ARGV, 5 do
  local id, user, priority = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local key, field = prefix .. 'message_delivery_status:' .. id, 'u:' .. user
  local before = call('HGET', key, field) or ''
  if not match(before, '^delivered') then
    if match(before, '^failed') then
      call('HINCRBY', key, 'failed', -1)
    end
    local letter = match(before, '^failed:.*:(%d+%-%d+)$')
    if letter then
      call('XDEL', prefix .. 'dead_letter_queue', letter)
    end
    call('HDEL', key, field, 'a:' .. user)
    call('HSET', key, 'priority', priority, 'expires_at', ARGV[i + 3])
    if call('PTTL', key) == -1 then
      call('PEXPIRE', key, ttl)
    end
    if not call('ZSCORE', prefix .. 'offline_messages:{' .. user .. '}', id) then
      call('ZREM', prefix .. 'message_log:{' .. user .. '}', id)
    end
    call('ZADD', prefix .. 'delayed_message_queue', now, priority .. ARGV[i + 4])
    count = count + 1
  end
end
return count
