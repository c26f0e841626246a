-- 有人写过、得到过应答的不在了：把记号写成负的，比 SQL 的旧，就是丢过数据。
-- KEYS[1] delivery_generation   ARGV[1] 代次
-- 返回：1 = 写了，0 = 已换了代次，或别人先说了
local now = redis.call('HMGET', KEYS[1], 'generation', 'mark')
if now[1] ~= ARGV[1] or tonumber(now[2] or '0') < 0 then
  return 0
end
redis.call('HSET', KEYS[1], 'mark', -1)
return 1
