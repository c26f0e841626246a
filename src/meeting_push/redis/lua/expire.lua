-- 一批（消息, 用户）过期了：记进状态哈希。SQL 已先记下，信箱随后才移（entomb.lua）。幂等。
-- 状态哈希已不在的不重建：没有人再问它。只碰各消息自己的状态：Cluster 上按槽分开调用。
-- ARGV[1] 前缀；之后每三个一组：message_id, user_id, 过期时刻(ms)
-- 返回：每条一个：1 = 早已确认
local call = redis.call
local prefix = ARGV[1]
local replies = {}

for i = 2, #ARGV, 3 do
  local key, field = prefix .. 'message_delivery_status:' .. ARGV[i], 'u:' .. ARGV[i + 1]
  local state = call('HGET', key, field)
  if not state and call('EXISTS', key) == 1 then
    call('HSET', key, field, 'expired:' .. ARGV[i + 2])
    call('HINCRBY', key, 'expired', 1)
  end
  replies[#replies + 1] = state and string.sub(state, 1, 9) == 'delivered' and 1 or 0
end
return replies
