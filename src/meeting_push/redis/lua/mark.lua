-- 推进记号，但只在 Redis 仍是我们认识的那个时：读与写之间若被清空，不得把它写成好的。
-- KEYS[1] delivery_generation   ARGV[1] 代次  ARGV[2] 新记号  ARGV[3] 现在(ms)
-- 返回：1 = 推进了，0 = 不是了（空了、换了代次、记号比我们的新，或负的：doubt.lua）
local now = redis.call('HMGET', KEYS[1], 'generation', 'mark')
local mark = tonumber(now[2] or '0')
if now[1] ~= ARGV[1] or mark >= tonumber(ARGV[2]) or mark < 0 then
  return 0
end
redis.call('HSET', KEYS[1], 'mark', ARGV[2], 'at', ARGV[3])
return 1
