-- 一批（消息, 用户）过期了：记进状态哈希，移出信箱。SQL 已先记下。幂等。
-- 状态哈希已不在的不重建：没有人再问它。
-- ARGV[1] 前缀  之后每三个一组：message_id, user_id, 过期时刻(ms)
local call = redis.call
local prefix = ARGV[1]
for i = 2, #ARGV, 3 do
  local id, user = ARGV[i], ARGV[i + 1]
  local key, field = prefix .. 'message_delivery_status:' .. id, 'u:' .. user
  call('ZREM', prefix .. 'offline_messages:{' .. user .. '}', id)
  if call('EXISTS', key) == 1 and call('HSETNX', key, field, 'expired:' .. ARGV[i + 2]) == 1 then
    call('HINCRBY', key, 'expired', 1)
  end
end
return 1
