-- 读一个用户的广播游标；第一次来的人从日志此刻的末尾算起。
-- KEYS[1] broadcast_cursor   ARGV[1] 日志末尾的 id   ARGV[2] 游标的 TTL(ms)
-- 返回 HGETALL：at = 到它为止都已确认；其余的字段是 at 之后零散确认的 id → 它前面的 id
redis.call('HSETNX', KEYS[1], 'at', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return redis.call('HGETALL', KEYS[1])
