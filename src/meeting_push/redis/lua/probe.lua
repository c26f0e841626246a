-- 就绪检查：以自己的键走一遍，写得进才算（LESSONS 25）；别的键、统计、队列里看不到它。
-- KEYS[1] 值   KEYS[2] 流   ARGV[1] 活多久（毫秒）   ARGV[2] 消费组；空 = 不投递的角色，不碰流
-- 返回：Redis 的钟（秒、微秒）
local call = redis.call
call('SET', KEYS[1], 1, 'PX', ARGV[1])
if ARGV[2] ~= '' then
  call('DEL', KEYS[2])
  local id = call('XADD', KEYS[2], '*', 'v', 1)
  call('XGROUP', 'CREATE', KEYS[2], ARGV[2], '0')
  call('XREADGROUP', 'GROUP', ARGV[2], 'probe', 'COUNT', 1, 'STREAMS', KEYS[2], '>')
  call('XACK', KEYS[2], ARGV[2], id)
  call('DEL', KEYS[2])
end
return call('TIME')
