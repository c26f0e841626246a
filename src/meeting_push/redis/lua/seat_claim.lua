-- 在一个用户的座位表里占一个位子；占、顶、通知被顶的是一步，所以上限从不被并发的连接越过。
-- 值是 "坐下的时刻:节点:device_id"；时刻取自 Redis，各节点的时钟不必一致。
-- 死节点的座位不算数，但租约在别的槽：满了才值得问，由调用者问完带着死节点再来。
-- 单独用，或拼在 arrive.lua 前面（那时的 KEYS、ARGV 是它给的一段）。
-- KEYS[1] user_slots
-- ARGV[1] user_id   ARGV[2] connection_id   ARGV[3] 节点   ARGV[4] device_id
-- ARGV[5] 上限   ARGV[6] reject · evict_oldest · replace_same_device   ARGV[7] TTL(ms)
-- ARGV[8] 控制频道   ARGV[9] 1 = 已问过（随后是死节点），0 = 还没问
-- 返回 {1, 座位的值} 坐下了 · {0} 满了 · {-1, 节点, ...} 满了，先问这些节点死了没有
local call, match = redis.call, string.match
local function claim_seat(KEYS, ARGV)
  local key, user, own, node, device = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
  local limit, policy, asked = tonumber(ARGV[5]), ARGV[6], ARGV[9] == '1'
  local dead = {}
  for i = 10, #ARGV do
    dead[ARGV[i]] = true
  end

  local others, replaced, suspects = {}, {}, {}
  local flat = {}
  if policy == 'replace_same_device' or call('HLEN', key) >= limit then -- 否则不必看是谁
    flat = call('HGETALL', key)
  end
  for i = 1, #flat, 2 do
    local connection = flat[i]
    local since, where, what = match(flat[i + 1], '^(%d+):([^:]*):(.*)$')
    if not since or dead[where] then
      call('HDEL', key, connection)
    elseif connection ~= own then
      if policy == 'replace_same_device' and what == device then
        replaced[#replaced + 1] = connection
      else
        others[#others + 1] = { tonumber(since), connection }
        suspects[where] = where ~= node or nil
      end
    end
  end

  if #others >= limit then
    local doubtful = { -1 }
    for where in pairs(suspects) do
      doubtful[#doubtful + 1] = where
    end
    if not asked and #doubtful > 1 then
      return doubtful
    elseif policy ~= 'evict_oldest' then
      return { 0 }
    end
    table.sort(others, function(a, b)
      return a[1] < b[1] or (a[1] == b[1] and a[2] < b[2])
    end)
    for i = 1, #others - limit + 1 do
      replaced[#replaced + 1] = others[i][2]
    end
  end

  local time = call('TIME')
  local seat = string.format('%d%03d:%s:%s', time[1], math.floor(time[2] / 1000), node, device)
  call('HSET', key, own, seat)
  call('PEXPIRE', key, ARGV[7])
  if #replaced > 0 then
    call('HDEL', key, unpack(replaced))
    call('PUBLISH', ARGV[8], '{"type":"control","command":"replace","user_id":' .. user ..
      ',"connection_ids":' .. cjson.encode(replaced) .. '}')
  end
  return { 1, seat }
end

if #KEYS == 1 then
  return claim_seat(KEYS, ARGV)
end
