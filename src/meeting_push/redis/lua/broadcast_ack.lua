-- 推进一批用户的广播游标。幂等；不必按次序：隔着没确认的，先零散地记着，连上了再并进去。
-- 不读日志：每条自带它前面那条的 id，所以只碰这个用户自己的键（Cluster 上一个主一次）。
-- 没有游标：连上时建立过，所以是 Redis 丢了它；从 0 算起，不得越过没确认的。
-- ARGV[1] 前缀   ARGV[2] 游标的 TTL(ms)   之后每三个一组：user_id, broadcast_id, 前面一条的 id
-- 返回：游标坏了的各是第几行（从 0 数）。接在 here.lua、guard.lua 之后。
local call, tonumber = redis.call, tonumber

-- 并进已经连上的与已被越过的；返回新的 at。零散的很少，逐遍扫就够。
local function absorb(key, at)
  local moved = true
  while moved do
    moved = false
    local all = call('HGETALL', key)
    for f = 1, #all, 2 do
      local id = tonumber(all[f]) -- 'at' 不是数
      if id and tonumber(all[f + 1]) <= at then
        call('HDEL', key, all[f])
        if id > at then
          at, moved = id, true
        end
      end
    end
  end
  return at
end

local function advance(i)
  local key = ARGV[1] .. 'broadcast_cursor:{' .. ARGV[i] .. '}'
  local id, previous = tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  local at = tonumber(call('HGET', key, 'at') or '0')
  if previous > at then
    call('HSET', key, 'at', string.format('%d', at), ARGV[i + 1], ARGV[i + 2])
  elseif id > at then
    at = id
    if call('HLEN', key) > 1 then
      at = absorb(key, at)
    end
    call('HSET', key, 'at', string.format('%d', at))
  end
  call('PEXPIRE', key, ARGV[2])
end

if scattered then
  for i = 3, #ARGV, 3 do
    local refused = elsewhere(ARGV[1] .. 'broadcast_cursor:{' .. ARGV[i] .. '}')
    if refused then
      return refused
    end
  end
end
for i = 3, #ARGV, 3 do
  guard((i - 3) / 3, advance, i)
end
return spoiled
