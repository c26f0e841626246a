-- 从消费组除去一个名字，但只在它手里什么都没有时：DELCONSUMER 会连待确认的一起丢掉。
-- KEYS[1] 流  ARGV[1] 消费组  ARGV[2] 消费者的名字
-- 返回：1 = 除去了，0 = 它手里还有
if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) > 0 then
  return 0
end
redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
return 1
