-- 读一个用户的广播游标；给了起点而还没有游标，就从那里开始。
-- KEYS[1] broadcast_cursor   ARGV[1] 游标的 TTL(ms)   ARGV[2] 起点，可以没有
-- 返回 HGETALL（没有游标则空）：at = 到它为止都已确认；其余的字段是 at 之后零散确认的 id → 它前面的 id
if ARGV[2] then
  redis.call('HSETNX', KEYS[1], 'at', ARGV[2])
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return redis.call('HGETALL', KEYS[1])
