-- 把到期的延迟条目移进队列；移入与移出是一步，进程死在中间也不会丢、不会重。
-- 成员 = 一个优先级数字 + 条目的 JSON。
-- KEYS[1] 延迟集合  KEYS[2] 普通队列  KEYS[3] 优先队列
-- ARGV[1] 现在(ms)  ARGV[2] 最多几条  ARGV[3] 紧急优先级的下界
-- 返回：移了几条。
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
local urgent = tonumber(ARGV[3])
for _, member in ipairs(due) do
  local target = KEYS[2]
  if tonumber(string.sub(member, 1, 1)) >= urgent then
    target = KEYS[3]
  end
  redis.call('XADD', target, '*', 'v', '1', 'entry', string.sub(member, 2))
  redis.call('ZREM', KEYS[1], member)
end
return #due
