-- 有人写过、得到过应答的不在了：把记号写成负的，比 SQL 的旧，就是丢过数据。
-- KEYS[1] delivery_generation   ARGV[1] 写的时候的代次
-- 返回：1 = 写了，0 = 那以后的已从记录重做过，或别人先说了
local now = redis.call('HMGET', KEYS[1], 'generation', 'mark', 'since')
local newest, of = tonumber(now[1] or '-1'), tonumber(ARGV[1])
if of > newest or of < tonumber(now[3] or newest) or tonumber(now[2] or '0') < 0 then
  return 0
end
redis.call('HSET', KEYS[1], 'mark', -1)
return 1
