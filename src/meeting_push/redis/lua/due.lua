-- 把到期的延迟条目移进队列；移入与移出是一步，进程死在中间也不会丢、不会重。
-- 成员 = 一个优先级数字 + 条目的 JSON。移进去的带着 s：消费者据此查它是否已被撤回。
-- 一起到期的再多，也只有 ARGV[5] 条走快的两条，其余的走慢的那条；慢的到了 ARGV[6] 条就停下，留到
-- 下一次：几十万条一起到期，不占满队列，也不挡住此刻的消息。已在队列里的同一条目只移出，不再加。
-- KEYS[1] 延迟集合  KEYS[2..4] 普通、优先、慢的队列  KEYS[5..7] 三者的摘要
-- ARGV[1] 现在(ms)  ARGV[2] 最多几条  ARGV[3] 紧急优先级的下界  ARGV[4] 快的上限
-- ARGV[5] 快的再收几条  ARGV[6] 慢的上限
-- 返回：移出了几条。
local call, sub = redis.call, string.sub
local due = call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
local urgent, live = tonumber(ARGV[3]), tonumber(ARGV[5])
local limits = { [2] = tonumber(ARGV[4]), [3] = tonumber(ARGV[4]), [4] = tonumber(ARGV[6]) }
local moved = 0
for _, member in ipairs(due) do
  local target = 4
  if moved < live then
    target = (tonumber(sub(member, 1, 1)) or 0) >= urgent and 3 or 2
  end
  local stream, known = KEYS[target], KEYS[target + 3]
  if call('XLEN', stream) < limits[target] then
    local json = sub(member, 2)
    local digest = sub(redis.sha1hex(json), 1, 24)
    local at = call('HGET', known, digest)
    if not (at and #call('XRANGE', stream, at, at) > 0) then
      local id = call('XADD', stream, '*', 'v', '1', 'entry', json, 'd', digest, 's', '1')
      call('HSET', known, digest, id)
    end
    call('ZREM', KEYS[1], member)
    moved = moved + 1
  elseif target == 4 then
    break
  end
end
return moved
