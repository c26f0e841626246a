-- 把一条广播记进日志并发布，一步完成。幂等：已在日志里的什么也不做。
-- id = 记下的时刻(ms)，同一毫秒里的依次加一：严格递增，又能按时间裁剪。只按时间裁，从不按条数。
-- KEYS[1] broadcast_log   KEYS[2] 日志里的 message_id（按 id 排序）
-- ARGV[1] 现在(ms)  ARGV[2] 日志的 TTL(ms)  ARGV[3] 频道
-- ARGV[4] message_id  ARGV[5] 优先级  ARGV[6] 过期时刻(ms)  ARGV[7] 尾
-- 返回：它的 id
local call = redis.call
local known = call('ZSCORE', KEYS[2], ARGV[4])
if known then
  return tonumber(known)
end
local last = call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
local previous = 0
if #last > 0 then
  previous = tonumber(string.match(last[1][1], '^%d+'))
end
local now = tonumber(ARGV[1])
local id = string.format('%d', math.max(now, previous + 1))
previous = string.format('%d', previous)
call('XADD', KEYS[1], id .. '-0', 'previous', previous, 'message_id', ARGV[4],
  'priority', ARGV[5], 'expires_at', ARGV[6])
call('ZADD', KEYS[2], id, ARGV[4])
local oldest = string.format('%d', now - tonumber(ARGV[2]))
call('XTRIM', KEYS[1], 'MINID', oldest .. '-0')
call('ZREMRANGEBYSCORE', KEYS[2], '-inf', '(' .. oldest)
call('PEXPIRE', KEYS[1], ARGV[2])
call('PEXPIRE', KEYS[2], ARGV[2])
call('PUBLISH', ARGV[3], '{"type":"new_message","broadcast_id":' .. id
  .. ',"broadcast_prev":' .. previous .. ',"attempt":0,' .. ARGV[7])
return tonumber(id)
