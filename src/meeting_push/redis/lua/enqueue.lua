-- 原子地入队一批：要么全部，要么（会超过上限时）一条都不。
-- 队列满了就拒绝，绝不裁掉旧的。
-- KEYS[1] 流   ARGV[1] 上限   ARGV[2..] 各条目的 JSON
-- 返回：入队后的长度；-1 表示已满。
local limit = tonumber(ARGV[1])
local length = redis.call('XLEN', KEYS[1])
if length + #ARGV - 1 > limit then
  return -1
end
for i = 2, #ARGV do
  redis.call('XADD', KEYS[1], '*', 'v', '1', 'entry', ARGV[i])
end
return length + #ARGV - 1
