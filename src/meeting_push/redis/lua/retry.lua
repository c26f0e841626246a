-- 认领一批重试：没有别人认领过的，记下次数。还在信箱里没有，先已问过；随后才放进延迟队列（outcomes.claim）。
-- 判断与记录是一步，所以两台设备、两个节点对同一次重试只认领到一次。
-- 只碰各消息自己的状态：Cluster 上按槽分开调用。
-- ARGV[1] 前缀  ARGV[2] 现在(ms)  ARGV[3] 最多重试几次
-- 之后每三个一组：message_id, user_id, 登记者所知的次数
-- 返回：每条四个：结论, 已推到第几次, 优先级, 过期时刻（后两个只在认领到时有）
--   0 不必再等（已过期）  1 认领到了  2 次数用完  3 别人先认领了  4 没有状态表，以后再说
local call, tonumber = redis.call, tonumber
local prefix, now, max = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local replies, r = {}, 0

local function claim(id, user, known)
  local key, field = prefix .. 'message_delivery_status:' .. id, 'a:' .. user
  local state = call('HMGET', key, field, 'expires_at', 'priority')
  local attempts, expires_at = tonumber(state[1] or '0'), state[2]
  if not expires_at then
    return 4, known
  elseif tonumber(expires_at) <= now then
    return 0, attempts
  elseif attempts > known then
    return 3, attempts
  elseif attempts >= max then
    return 2, attempts
  end
  return 1, call('HINCRBY', key, field, 1), state[3], expires_at
end

for i = 4, #ARGV, 3 do
  local verdict, attempts, priority, expires_at = claim(ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]))
  replies[r + 1], replies[r + 2] = verdict, attempts
  replies[r + 3], replies[r + 4] = priority or '', expires_at or ''
  r = r + 4
end
return replies
