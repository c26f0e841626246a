-- 把本节点一批连接的变化写进在线状态；幂等，重来无害。接在 presence_user.lua 之后。
-- ARGV[4] 早于它的心跳不再算在线(ms)   ARGV[5] 节点的键的 TTL(ms)，长于 ARGV[3]
-- ARGV[6] 1 = 租约断过：期间读到的是离线，没有转变也要发布
-- ARGV[7] left_users 至多几个人   ARGV[8] 低于它的分数已经太久   ARGV[9] 它的 TTL(ms)
-- 之后每四个一组：user_id, connection_id, JSON（'' = 这条连接没了）, 最后心跳(ms)；
-- 没了的，第四个是它在 left_users 里的分数，0 = 不说明什么
-- 返回上线、下线了的人：user, 1 或 0, …
local left_users = prefix .. 'left_users'
local any_left = false
-- 全局的键各攒成一条命令：一条命令在 Lua 里约 1 µs，与它带几个成员几乎无关
local seen, came, back = {}, {}, {}

-- 最后一条连接没了：记下怎样没有的，直到他回来。
local function leave(user, score)
  if score ~= '0' and call('EXISTS', key_of(user)) == 0 then
    call('ZADD', left_users, score, user)
    any_left = true
  end
end

-- 多数人只有一台设备：能由写入前的样子与 HSET 的回答推出来的，不再问一遍
local function put(user, connection, json)
  local key = key_of(user)
  local before = call('HVALS', key)
  local count = #before + call('HSET', key, connection, json)
  call('PEXPIRE', key, ttl)
  if #before == 0 then
    back[#back + 1] = user
  end
  settle(user, before, count > 1 and call('HVALS', key) or { json }, ARGV[6] == '1')
end

for i = 10, #ARGV, 4 do
  local user, connection, json = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local member = user .. ':' .. connection
  if json == '' then
    if remove(user, connection) == 1 then
      leave(user, ARGV[i + 3])
    end
    call('SREM', own_index, member)
  else
    came[#came + 1] = member
    seen[#seen + 1] = ARGV[i + 3]
    seen[#seen + 1] = user
    put(user, connection, json)
  end
end
if #came > 0 then
  call('SADD', own_index, unpack(came))
  call('ZADD', online, 'GT', unpack(seen))
end
if #back > 0 then
  call('ZREM', left_users, unpack(back))
end
-- 登记节点：没有租约时写入的，也要有人收拾得到
call('SADD', nodes, own)
call('PEXPIRE', nodes, ARGV[5])
call('PEXPIRE', own_index, ARGV[5])
if any_left then
  call('ZREMRANGEBYSCORE', left_users, '-inf', '(' .. ARGV[8])
  call('ZREMRANGEBYRANK', left_users, 0, -ARGV[7] - 1)
  call('PEXPIRE', left_users, ARGV[9])
end
call('ZREMRANGEBYSCORE', online, '-inf', '(' .. ARGV[4])
call('PEXPIRE', online, ttl)
return turned
