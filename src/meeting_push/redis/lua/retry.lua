-- 认领一批重试：还在信箱里、没有别人认领过的，记下次数并放进延迟队列，立即到期。
-- 判断与记录是一步，所以两台设备、两个节点对同一次重试只认领到一次。
-- ARGV[1] 前缀  ARGV[2] 现在(ms)  ARGV[3] 最多重试几次
-- 之后每三个一组：message_id, user_id, 登记者所知的次数
-- 返回：每条两个数：结论, 已推到第几次
--   0 不必再等（已确认、已移出、已过期）  1 认领到了  2 次数用完  3 别人先认领了  4 没有状态表，以后再说
local call, tonumber = redis.call, tonumber
local prefix, now, max = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local delayed = prefix .. 'delayed_message_queue'
local replies = {}

local function claim(id, user, known)
  if not call('ZSCORE', prefix .. 'offline_messages:{' .. user .. '}', id) then
    return 0, 0
  end
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
  attempts = call('HINCRBY', key, field, 1)
  -- 成员的样子见 due.lua：一个优先级数字 + 条目的 JSON
  call('ZADD', delayed, ARGV[2], state[3] .. '{"message_id":"' .. id .. '","recipient_ids":['
    .. user .. '],"priority":' .. state[3] .. ',"expires_at":' .. expires_at
    .. ',"attempt":' .. attempts .. '}')
  return 1, attempts
end

for i = 4, #ARGV, 3 do
  local verdict, attempts = claim(ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]))
  replies[#replies + 1] = verdict
  replies[#replies + 1] = attempts
end
return replies
