-- 把本节点一批连接的变化写进在线状态；幂等，重来无害。接在 presence_user.lua 之后。
-- ARGV[4] 早于它的心跳不再算在线(ms)   ARGV[5] 节点的键的 TTL(ms)，长于 ARGV[3]
-- ARGV[6] 1 = 租约断过：期间读到的是离线，没有转变也要发布
-- 之后每四个一组：user_id, connection_id, JSON（'' = 这条连接没了）, 最后心跳(ms)

-- 多数人只有一台设备：能由写入前的样子与 HSET 的回答推出来的，不再问一遍
local function put(user, connection, json)
  local key = key_of(user)
  local before = call('HVALS', key)
  local count = #before + call('HSET', key, connection, json)
  call('PEXPIRE', key, ttl)
  settle(user, before, count > 1 and call('HVALS', key) or { json }, ARGV[6] == '1')
end

for i = 7, #ARGV, 4 do
  local user, connection, json = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local member = user .. ':' .. connection
  if json == '' then
    remove(user, connection)
    call('SREM', own_index, member)
  else
    call('SADD', own_index, member)
    call('ZADD', online, 'GT', ARGV[i + 3], user)
    put(user, connection, json)
  end
end
-- 登记节点：没有租约时写入的，也要有人收拾得到
call('SADD', nodes, own)
call('PEXPIRE', nodes, ARGV[5])
call('PEXPIRE', own_index, ARGV[5])
call('ZREMRANGEBYSCORE', online, '-inf', '(' .. ARGV[4])
call('PEXPIRE', online, ttl)
return 1
