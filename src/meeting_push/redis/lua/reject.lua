-- 把一个条目移进死信：写入死信、确认、删除是一步。
-- KEYS[1] 死信  KEYS[2] 原队列
-- ARGV[1] 消费组  ARGV[2] 条目 id  ARGV[3] 条目原文  ARGV[4] 原因  ARGV[5] 原队列名
redis.call('XADD', KEYS[1], '*', 'v', '1', 'entry', ARGV[3], 'reason', ARGV[4], 'queue', ARGV[5])
redis.call('XACK', KEYS[2], ARGV[1], ARGV[2])
redis.call('XDEL', KEYS[2], ARGV[2])
return 1
