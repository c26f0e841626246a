-- 把到期的延迟条目移进队列；移入与移出是一步，进程死在中间也不会丢、不会重。
-- 成员 = 一个优先级数字 + 条目的 JSON。移进去的带着 s：消费者据此查它是否已被撤回。
-- 目标满了就停下，留到下一次；已在队列里的同一条目只移出，不再加。
-- KEYS[1] 延迟集合  KEYS[2] 普通队列  KEYS[3] 优先队列  KEYS[4]、KEYS[5] 两者的摘要
-- ARGV[1] 现在(ms)  ARGV[2] 最多几条  ARGV[3] 紧急优先级的下界  ARGV[4] 上限
-- 返回：移出了几条。
local call, sub = redis.call, string.sub
local due = call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
local urgent, limit = tonumber(ARGV[3]), tonumber(ARGV[4])
local moved = 0
for _, member in ipairs(due) do
  local target = (tonumber(sub(member, 1, 1)) or 0) >= urgent and 3 or 2
  local stream, known = KEYS[target], KEYS[target + 2]
  if call('XLEN', stream) < limit then
    local json = sub(member, 2)
    local digest = sub(redis.sha1hex(json), 1, 24)
    local at = call('HGET', known, digest)
    if not (at and #call('XRANGE', stream, at, at) > 0) then
      local id = call('XADD', stream, '*', 'v', '1', 'entry', json, 'd', digest, 's', '1')
      call('HSET', known, digest, id)
    end
    call('ZREM', KEYS[1], member)
    moved = moved + 1
  end
end
return moved
