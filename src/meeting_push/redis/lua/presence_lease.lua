-- 续租，并让节点的登记与索引活得更久。
-- KEYS[1] 租约  KEYS[2] 节点的集合  KEYS[3] 本节点的索引
-- ARGV[1] 节点  ARGV[2] 现在(ms)  ARGV[3] 租期(ms)  ARGV[4] 节点的键的 TTL(ms)
-- 返回 1 = 一直有效；0 = 断过：别人可能已当本节点死了，它的连接要重写。
local before = redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3], 'GET')
local added = redis.call('SADD', KEYS[2], ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
redis.call('PEXPIRE', KEYS[3], ARGV[4])
if before and added == 0 then
  return 1
end
return 0
