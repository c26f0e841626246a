-- 把一批（消息, 用户）记为 failed：状态、死信、移出信箱是一步。SQL 已先记下。幂等。
-- ARGV[1] 前缀  ARGV[2] 失败的时刻(ms)  ARGV[3] 原因  ARGV[4] 状态哈希的 TTL(ms)
-- 之后每三个一组：message_id, user_id, 死信里的条目 JSON（空 = 死信另有人写）
-- 返回：每条一个：1 刚刚失败 · 0 早已失败 · 'delivered:推:确认' = 确认先到了，什么也没改 ·
-- -1 它的键坏了，Redis 这一侧没有记成（SQL 已记下）。接在 guard.lua 之后。
local call, sub = redis.call, string.sub
local prefix, at, reason, ttl = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local replies = {}

local function fail(id, user, entry)
  local key, field = prefix .. 'message_delivery_status:' .. id, 'u:' .. user
  local before = call('HGET', key, field) or ''
  if sub(before, 1, 9) == 'delivered' then
    return before
  end
  call('ZREM', prefix .. 'offline_messages:{' .. user .. '}', id)
  if sub(before, 1, 6) == 'failed' then
    return 0
  end
  local letter = entry == '' and '' or call('XADD', prefix .. 'dead_letter_queue', '*',
    'v', '1', 'entry', entry, 'reason', reason, 'queue', 'mailbox')
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
