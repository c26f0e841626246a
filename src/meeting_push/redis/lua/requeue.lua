-- 失败的一批（消息, 用户）从头再来：清掉状态与次数。续传日志、延迟队列、死信在先（outcomes.requeue）。
-- 已确认的不动。幂等。只碰各消息自己的状态：Cluster 上按槽分开调用。
-- ARGV[1] 前缀  ARGV[2] 状态哈希的 TTL(ms)
-- 之后每四个一组：message_id, user_id, 优先级, 过期时刻
local call, match = redis.call, string.match
local prefix, ttl = ARGV[1], ARGV[2]
for i = 3, #ARGV, 4 do
  local key, user = prefix .. 'message_delivery_status:' .. ARGV[i], ARGV[i + 1]
  local field = 'u:' .. user
  local before = call('HGET', key, field) or ''
  if not match(before, '^delivered') then
    if match(before, '^failed') then
      call('HINCRBY', key, 'failed', -1)
    end
    call('HDEL', key, field, 'a:' .. user)
    call('HSET', key, 'priority', ARGV[i + 2], 'expires_at', ARGV[i + 3])
    if call('PTTL', key) == -1 then
      call('PEXPIRE', key, ttl)
    end
  end
end
return 1
