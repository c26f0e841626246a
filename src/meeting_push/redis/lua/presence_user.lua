-- 在线状态脚本的公共部分：拼在 presence.lua 与 presence_reap.lua 的前面。
-- 计数取自哈希的长度，绝不自己加减，所以不会漂移。每次改变前后各看一眼“别人眼里的状态”，不同
-- 才发布：脚本是原子的，所以每个转变恰好发布一次（断过租约的节点回来时，再说一遍无妨）。
-- 同一用户的键在一个槽；online_users_set 与各节点的键是全局的：Cluster 上它们要单独写。
-- ARGV[1] 前缀   ARGV[2] 节点   ARGV[3] 用户的键的 TTL(ms)
local call, find, match = redis.call, string.find, string.match
local prefix, own, ttl = ARGV[1], ARGV[2], ARGV[3]
local online = prefix .. 'online_users_set'
local nodes = prefix .. 'nodes'
local indexes = prefix .. 'node_connections:'
local own_index = indexes .. own

-- 死节点的连接不算在线，与读取时一致。自己总算活着：登记时租约可能恰好断了（随后整个重写，
-- 那时已看不出转变）；收拾死节点时，要以它的连接还算数的样子作“之前”，离线才会被宣布。
local alive = { [own] = true }
local function is_alive(node)
  if alive[node] == nil then
    alive[node] = call('EXISTS', prefix .. 'node:' .. node) == 1
  end
  return alive[node]
end

-- node 是 ConnectionInfo 的最后一个字段；device_info 里的引号在 JSON 里都带反斜杠，冒充不了。
local function node_of(json)
  return match(json, '"node":"([^"\\]*)"}$')
end

-- 几条连接合起来的状态，规则同 redis/presence.py 的 overall_status；false = 不在线。
local function status_of(connections)
  local status = false
  for _, json in ipairs(connections) do
    local node = node_of(json)
    if node and is_alive(node) then
      if find(json, '"status":"busy"', 1, true) then
        return 'busy'
      elseif find(json, '"status":"active"', 1, true) then
        status = 'active'
      end
      status = status or 'away'
    end
  end
  return status
end

local function key_of(user)
  return prefix .. 'online_users:{' .. user .. '}'
end

-- 上线、下线了的人：user, 1 或 0, …；脚本答它，出门的事件由此而来
local turned = {}

-- 一个用户的连接表从 before 变成了 after（各是 JSON 的表）：计数、全局集合、发布；anyway = 没变也发布。
local function settle(user, before, after, anyway)
  local count_key = prefix .. 'user_connections_count:{' .. user .. '}'
  if #after == 0 then
    call('DEL', count_key)
    call('ZREM', online, user)
  else
    call('SET', count_key, #after, 'PX', ttl)
  end
  local status, was = status_of(after), status_of(before)
  if not was ~= not status then
    turned[#turned + 1] = user
    turned[#turned + 1] = status and 1 or 0
  end
  if anyway or was ~= status then
    local seen = status and 'true,"status":"' .. status .. '"}' or 'false,"status":null}'
    call('PUBLISH', prefix .. 'presence:{' .. user .. '}',
      '{"type":"presence","user_id":' .. user .. ',"online":' .. seen)
  end
end

-- 移走一条连接；给了 owner 就只移它的（同名的连接可能已在别处重新登记）。返回移走了几条。
local function remove(user, connection, owner)
  local key = key_of(user)
  local json = call('HGET', key, connection)
  local node = json and node_of(json)
  if owner and node ~= owner then
    return 0
  end
  local before = call('HVALS', key)
  if not json then
    settle(user, before, before)
    return 0
  end
  call('HDEL', key, connection)
  call('SREM', indexes .. (node or own), user .. ':' .. connection)
  settle(user, before, #before > 1 and call('HVALS', key) or {})
  return 1
end
