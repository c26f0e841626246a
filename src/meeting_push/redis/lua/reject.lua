-- 把一个条目移出流：进死信，或推迟到以后再来。移入与移出是一步；已不在流里的什么也不做。
-- KEYS[1] 死信（流）或延迟集合  KEYS[2] 原队列  KEYS[3] 摘要  KEYS[4] 意外
-- ARGV[1] 消费组  ARGV[2] 条目 id  ARGV[3] 摘要  ARGV[4] 条目原文
-- ARGV[5] 何时再来(ms)，'' = 进死信；进死信时还有 ARGV[6] 原因  ARGV[7] 原队列名
-- 返回：1 = 移了，0 = 已不在
local call = redis.call
if #call('XRANGE', KEYS[2], ARGV[2], ARGV[2]) == 0 then
  call('XACK', KEYS[2], ARGV[1], ARGV[2])
  return 0
end
if ARGV[5] == '' then
  local error = call('HGET', KEYS[4], ARGV[2]) or ''
  call(
    'XADD', KEYS[1], '*', 'v', '1', 'entry', ARGV[4],
    'reason', ARGV[6], 'queue', ARGV[7], 'error', error
  )
else
  call('ZADD', KEYS[1], ARGV[5], ARGV[4])
end
call('XACK', KEYS[2], ARGV[1], ARGV[2])
call('XDEL', KEYS[2], ARGV[2])
call('HDEL', KEYS[3], ARGV[3])
call('HDEL', KEYS[4], ARGV[2])
return 1
