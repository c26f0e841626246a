-- 把一批（消息, 用户）记为 failed。SQL 已先记下，死信已先写好，信箱随后才移（outcomes.fail）。幂等。
-- 只碰各消息自己的状态：Cluster 上按槽分开调用。
-- ARGV[1] 前缀  ARGV[2] 失败的时刻(ms)  ARGV[3] 原因  ARGV[4] 状态哈希的 TTL(ms)
-- 之后每三个一组：message_id, user_id, 死信的 id（空 = 死信另有人写）
-- 返回：每条一个：1 刚刚失败 · 0 早已失败 · 'delivered:推:确认' = 确认先到了，什么也没改 ·
-- -1 它的键坏了，Redis 这一侧没有记成（SQL 已记下）。接在 guard.lua 之后。
local call, sub = redis.call, string.sub
local prefix, at, reason, ttl = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local replies = {}

local function fail(id, user, letter)
  local key, field = prefix .. 'message_delivery_status:' .. id, 'u:' .. user
  local before = call('HGET', key, field) or ''
  if sub(before, 1, 9) == 'delivered' then
    return before
  elseif sub(before, 1, 6) == 'failed' then
    return 0
  end
  -- 记住死信的 id：迟到的确认与重新入队要把它取走
  call('HSET', key, field, 'failed:' .. at .. ':' .. reason .. ':' .. letter)
  call('HINCRBY', key, 'failed', 1)
  if call('PTTL', key) == -1 then
    call('PEXPIRE', key, ttl)
  end
  return 1
end

for i = 5, #ARGV, 3 do
  replies[#replies + 1] = guard(i, fail, ARGV[i], ARGV[i + 1], ARGV[i + 2]) or -1
end
return replies
