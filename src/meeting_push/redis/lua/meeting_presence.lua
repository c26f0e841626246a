-- 谁在会议里：加入、续期、离开、清掉死节点留下的，都走这里；到场与离开在同一步宣布，所以恰好一次。
-- 成员是 "user_id:connection_id:名字"（user_id 是对外的，写成 JSON，其中的冒号是 \u003a），分数是到期时刻；时刻取自 Redis，各节点的时钟不必一致。
-- KEYS[1] meeting_online
-- ARGV[1] 每个成员的 TTL(ms)   ARGV[2] 会议频道   ARGV[3] 连接数上限（0 = 不限，续期用）
-- ARGV[4] 一个人的份额   ARGV[5] '1' = 满了也给他第一条（召开者、识别器）
-- ARGV[6] 移出几个，随后是它们；其余的是要加入或续期的
-- 返回 {1 = 已满（没有加入）, {user_id, 名字, ...}}
local call = redis.call
local key, ttl, channel = KEYS[1], tonumber(ARGV[1]), ARGV[2]
local limit, share, always = tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5] == '1'
local removed = tonumber(ARGV[6])
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function online()
  local users = {}
  for _, member in ipairs(call('ZRANGE', key, 0, -1)) do
    local user, name = string.match(member, '^([^:]+):[^:]*:(.*)$')
    if user then
      users[user] = name
    end
  end
  return users
end

local function announce(kind, user, name, present)
  call('PUBLISH', channel, '{"type":"' .. kind .. '","user_id":' .. user .. ',"name":' ..
    cjson.encode(name) .. ',"online":' .. present .. ',"timestamp":' .. string.format('%.0f', now) .. '}')
end

local before = online()
call('ZREMRANGEBYSCORE', key, '-inf', now)
for i = 7, 6 + removed do
  call('ZREM', key, ARGV[i])
end

local function crowded(member)
  local user, own = string.match(member, '^([^:]+:)'), 0
  for _, other in ipairs(call('ZRANGE', key, 0, -1)) do
    if string.sub(other, 1, #user) == user then
      own = own + 1
    end
  end
  return own >= share or (call('ZCARD', key) >= limit and not (always and own == 0))
end

local first = ARGV[7 + removed]
local full = limit > 0 and not call('ZSCORE', key, first) and crowded(first)
if not full then
  for i = 7 + removed, #ARGV do
    call('ZADD', key, now + ttl, ARGV[i])
  end
end
call('PEXPIRE', key, ttl * 2)

local after, list = online(), {}
for user, name in pairs(before) do
  if not after[user] then
    announce('leave', user, name, 'false')
  end
end
for user, name in pairs(after) do
  if not before[user] then
    announce('join', user, name, 'true')
  end
  list[#list + 1] = user
  list[#list + 1] = name
end
return { full and 1 or 0, list }
