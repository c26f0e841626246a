-- 把一批连接的变化写进在线状态；计数由 HLEN 得出，绝不自己加减，所以不会漂移。
-- 同一用户的两个键在一个槽，online_users_set 是全局的：Cluster 上它要单独写。
-- ARGV[1] 前缀   ARGV[2] TTL(ms)   ARGV[3] 早于它的心跳不再算在线(ms)
-- 之后每四个一组：user_id, connection_id, JSON（'' = 这条连接没了）, 最后心跳(ms)
local call = redis.call
local prefix, ttl = ARGV[1], ARGV[2]
local online = prefix .. 'online_users_set'
for i = 4, #ARGV, 4 do
  local user, connection, json = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local key = prefix .. 'online_users:{' .. user .. '}'
  local count_key = prefix .. 'user_connections_count:{' .. user .. '}'
  if json == '' then
    call('HDEL', key, connection)
  else
    call('HSET', key, connection, json)
    call('PEXPIRE', key, ttl)
    call('ZADD', online, 'GT', ARGV[i + 3], user)
  end
  local count = call('HLEN', key)
  if count == 0 then
    call('DEL', count_key)
    call('ZREM', online, user)
  else
    call('SET', count_key, count, 'PX', ttl)
  end
end
call('ZREMRANGEBYSCORE', online, '-inf', '(' .. ARGV[3])
call('PEXPIRE', online, ttl)
return 1
