-- 这个 Redis 服务的是哪个数据库：先来的算数，只要它还有一个节点活着（E5）。时刻是 Redis 的钟。
-- KEYS[1] database_claim   ARGV[1] 数据库的 id   ARGV[2] 节点   ARGV[3] 租期（毫秒）
-- 返回：服务着的数据库；不是 ARGV[1] 就什么也没有改
local call = redis.call
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local owner = call('HGET', KEYS[1], 'database')
local alive = false
local fields = call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
  if fields[i] ~= 'database' then
    if tonumber(fields[i + 1]) > now then
      alive = true
    else
      call('HDEL', KEYS[1], fields[i])
    end
  end
end
if owner and owner ~= ARGV[1] and alive then
  return owner
end
local until_ms = string.format('%.0f', now + tonumber(ARGV[3]))
call('HSET', KEYS[1], 'database', ARGV[1], ARGV[2], until_ms)
call('PEXPIRE', KEYS[1], tonumber(ARGV[3]) * 2)
return ARGV[1]
