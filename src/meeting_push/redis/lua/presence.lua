-- 一批连接的变化，写进各用户的连接表；幂等，重来无害。接在 here.lua、guard.lua 之后。
-- 计数取自哈希的长度，绝不自己加减，所以不会漂移。每次改变前后各看一眼“别人眼里的状态”，不同
-- 才发布：脚本是原子的，所以每个转变恰好发布一次（断过租约的节点回来时，再说一遍无妨）。
-- 只碰各用户自己的键：Cluster 上一个主一次；全局的索引由调用者写（redis/presence.py，决定 0018）。
-- 一台 Redis 不管槽：给了 ARGV[6] 就连它们一起写，次序照旧，省下八条命令。
-- ARGV[1] 前缀   ARGV[2] 节点   ARGV[3] 用户的键的 TTL(ms)
-- ARGV[4] 1 = 租约断过：期间读到的是离线，没有转变也要发布
-- ARGV[5] 1 = 收拾：只移走这个节点的，坏了的略过
-- ARGV[6] 早于它的心跳不再算在线(ms)，'' = 全局的由调用者写   ARGV[7] 节点的键的 TTL(ms)
-- ARGV[8] 问过租约的节点几个   ARGV[9] 发布用的动词（Cluster 上是 SPUBLISH）
-- 随后问过的每个两项：节点, 1 = 活着
-- 之后每四个一组：user_id, connection_id, JSON（'' = 这条连接没了）, 最后心跳(ms)
-- 返回四个列表：上线、下线了的人 {user, 1 或 0, …}；没有写的（他有连接在没问过的节点上）各是第几组；
-- 没问过的节点；没了的 {第几组, 1 = 这一次移走的, 它的节点（'' = 不知道）, 还剩几条, …}
local call, find, match = redis.call, string.find, string.match
local prefix, own, ttl = ARGV[1], ARGV[2], ARGV[3]

-- 死节点的连接不算在线，与读取时一致。自己总算活着：登记时租约可能恰好断了（随后整个重写，
-- 那时已看不出转变）；收拾死节点时，要以它的连接还算数的样子作“之前”，离线才会被宣布。
-- 别的节点的租约在别的槽：有它的连接才值得问，由调用者问完再来（同 seat_claim.lua）。
local alive = {}
local rows = 10 + 2 * ARGV[8] -- 从这里起
for i = 10, rows - 1, 2 do
  alive[ARGV[i]] = ARGV[i + 1] == '1'
end
alive[own] = true

local turned, skipped, unknown, gone = {}, {}, {}, {}

-- node 是 ConnectionInfo 的最后一个字段；device_info 里的引号在 JSON 里都带反斜杠，冒充不了。
local function node_of(json)
  return match(json, '"node":"([^"\\]*)"}$')
end

-- 有连接在没问过的节点上：这一组不写。
local function unsure(connections)
  local doubtful = false
  for _, json in ipairs(connections) do
    local node = node_of(json)
    if node and alive[node] == nil then
      unknown[node], doubtful = true, true
    end
  end
  return doubtful
end

-- 几条连接合起来的状态，规则同 redis/presence.py 的 overall_status；false = 不在线。
local function status_of(connections)
  local status = false
  for _, json in ipairs(connections) do
    local node = node_of(json)
    if node and alive[node] then
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

-- 一个用户的连接表从 before 变成了 after（各是 JSON 的表）：计数、发布；anyway = 没变也发布。
local function settle(user, before, after, anyway)
  local count_key = prefix .. 'user_connections_count:{' .. user .. '}'
  if #after == 0 then
    call('DEL', count_key)
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
    call(ARGV[9], prefix .. 'presence:{' .. user .. '}',
      '{"type":"presence","user_id":' .. user .. ',"online":' .. seen)
  end
end

local function note_gone(at, removed, node, left)
  local n = #gone
  gone[n + 1], gone[n + 2], gone[n + 3], gone[n + 4] = at, removed, node or '', left
end

-- 移走一条连接；收拾时只移那个节点的（同名的连接可能已在别处重新登记）。早已不在的也说还剩几条：
-- 上一个收拾的人可能死在移走与改索引之间。
local function remove(at, key, user, connection, before)
  local json = call('HGET', key, connection)
  local node = json and node_of(json)
  if ARGV[5] == '1' and json and node ~= own then
    return
  end
  local after = before
  if json then
    call('HDEL', key, connection)
    after = #before > 1 and call('HVALS', key) or {}
  end
  settle(user, before, after)
  note_gone(at, json and 1 or 0, node, #after)
end

-- 多数人只有一台设备：能由写入前的样子与 HSET 的回答推出来的，不再问一遍
local function put(key, user, connection, before, json)
  local count = #before + call('HSET', key, connection, json)
  call('PEXPIRE', key, ttl)
  settle(user, before, count > 1 and call('HVALS', key) or { json }, ARGV[4] == '1')
end

local function write(at, user, connection, json)
  local key = prefix .. 'online_users:{' .. user .. '}'
  local before = call('HVALS', key)
  if unsure(before) then
    skipped[#skipped + 1] = at
  elseif json == '' then
    remove(at, key, user, connection, before)
  else
    put(key, user, connection, before, json)
  end
end

-- 先于连接表：索引里多一项，收拾者认得；少一项，就没有人收拾它
local function index()
  local key, came = prefix .. 'node_connections:' .. own, {}
  for i = rows, #ARGV, 4 do
    if ARGV[i + 2] ~= '' then
      came[#came + 1] = ARGV[i] .. ':' .. ARGV[i + 1]
    end
  end
  if #came > 0 then
    call('SADD', key, unpack(came))
  end
  call('SADD', prefix .. 'nodes', own)
  call('PEXPIRE', prefix .. 'nodes', ARGV[7])
  call('PEXPIRE', key, ARGV[7])
end

-- 全局的集合，后于连接表
local function show()
  local online, seen, users = prefix .. 'online_users_set', {}, {}
  for i = rows, #ARGV, 4 do
    if ARGV[i + 2] ~= '' then
      users[#users + 1] = ARGV[i]
      seen[#seen + 1] = ARGV[i + 3]
      seen[#seen + 1] = ARGV[i]
    end
  end
  if #users > 0 then
    call('ZADD', online, 'GT', unpack(seen))
    if call('EXISTS', prefix .. 'left_users') == 1 then
      call('ZREM', prefix .. 'left_users', unpack(users))
    end
  end
  call('ZREMRANGEBYSCORE', online, '-inf', '(' .. ARGV[6])
  call('PEXPIRE', online, ttl)
end

if scattered then
  for i = rows, #ARGV, 4 do
    local tag = ARGV[i] .. '}'
    local refused = elsewhere(prefix .. 'online_users:{' .. tag, prefix .. 'user_connections_count:{' .. tag)
    if refused then
      return refused
    end
  end
end
local whole = ARGV[6] ~= ''
if whole then
  index()
end
local at = 0
for i = rows, #ARGV, 4 do
  if ARGV[5] == '1' then
    guard(at, write, at, ARGV[i], ARGV[i + 1], ARGV[i + 2])
  else
    write(at, ARGV[i], ARGV[i + 1], ARGV[i + 2])
  end
  at = at + 1
end

if whole then
  show()
end
local asking = {}
for node in pairs(unknown) do
  asking[#asking + 1] = node
end
return { turned, skipped, asking, gone }
